"""sslviz: the frame around every page. Served by `sslviz app`, whose server also gives the pictures out."""

from sslviz.ui import frame

frame.show()
