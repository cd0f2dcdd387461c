"""Code in two processes that share a batch, their environment as torchrun sets it."""

import os
import socket
import sys
from types import ModuleType
from unittest.mock import patch

from torch import multiprocessing


def in_two(function, *arguments):
    """Call function(*arguments) in two processes; raises where one of them does. They are forks of one that has imported all."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["sslviz.training.loop", "lightly.loss"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with patch.dict(sys.modules, __main__=ModuleType("__main__")):  # after AppTest it is app.py, which each process would run
        multiprocessing.start_processes(_process, (port, function, arguments), nprocs=2, start_method="forkserver")


def _process(rank, port, function, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(*arguments)
