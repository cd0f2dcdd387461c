"""The app's parts. A page in pages/ is a short script of them; nothing is computed here that a command cannot."""
