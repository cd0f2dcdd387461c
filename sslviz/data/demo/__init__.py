"""The demo set: rendered still lifes whose every cause of difficulty is known."""
