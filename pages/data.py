"""How do my images and my checkpoint get in?"""

import streamlit as st

from sslviz.store.workspace import Workspace
from sslviz.ui import forms, frame

frame.open_page("Data", "How do I add my images and my encoder?")
workspace = Workspace()
forms.analyze_form(workspace)
forms.known_data_form(workspace)
forms.arrays_form(workspace)
forms.masks_form(workspace)
forms.pretrain_form(workspace)
forms.catalogue_form(workspace)
st.subheader("In this workspace")
forms.show_datasets(workspace)
forms.show_encoders(workspace)
st.page_link("pages/overview.py", label="Overview of the chosen data set and encoder", icon=":material/dashboard:")
