"""sslviz: the frame around every page. Served by `sslviz app`; `streamlit run app.py` works too."""

from sslviz.ui import frame

frame.show()
