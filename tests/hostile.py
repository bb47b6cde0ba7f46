"""Hostile submissions for the tests of the marking: what each does when its linear_forward is called, or before.

Each is the text of layers.py. Before it stand OUTSIDE, a folder with kept.txt in it; SECRET, a file in a home folder;
PORT, where a server listens; VICTIM, the number of another process; and ROOT, the project. Whoever has what it wants
raises an error that says DONE. Most are refused by their imports already; the tests mark them without a look at those.
"""

CALLED = "\n\ndef linear_forward(x, w, b):\n"


def at_call(body, imports="import os"):
    """Return a module that does something when linear_forward is called."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{imports}\n{CALLED}{lines}    raise ValueError('DONE')\n"


WRAPPER = (
    "def linear_forward(x, w, b):\n    return f(x, w, b)\n\n\n"
    "def linear_backward(dout, cache):\n    return g(dout, cache)\n"
)
EXTERNAL = (
    "import numba\nfrom numba import types\nfrom numba.core.typing import signature\n\n"
    "call = types.ExternalFunction({name!r}, signature(types.int32{arguments}))\n"
)

HOSTILE = {
    # Code that no audit hook of Python sees ---------------------------------------------------------------------------
    "sub_interpreter": at_call(
        "i = sub.create()\nsub.run_string(i, f'open({OUTSIDE!r} + \"/new\", \"w\").close()')\nopen(OUTSIDE + '/new')",
        "import _xxsubinterpreters as sub",
    ),
    "reimported_fork": at_call(
        "del sys.modules['posix']\nif importlib.import_module('posix').fork() == 0:\n"
        "    open(OUTSIDE + '/new', 'w')\n    os._exit(0)\nos.wait()\nopen(OUTSIDE + '/new')",
        "import importlib, os, sys",
    ),
    "address_of_llvmlite": at_call(
        "binding.load_library_permanently('')\naddress = binding.address_of_symbol('system')\n"
        "ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(address)(f'touch {OUTSIDE}/new'.encode())\n"
        "open(OUTSIDE + '/new')",
        "import ctypes\n\nfrom llvmlite import binding",
    ),
    "numba_system": EXTERNAL.format(name="system", arguments=", types.voidptr")
    + at_call(
        "text = np.frombuffer(f'touch {OUTSIDE}/new\\0'.encode(), np.uint8).copy()\n"
        "numba.njit(lambda a: call(a.ctypes.data))(text)\nopen(OUTSIDE + '/new')",
        "import numpy as np",
    ),
    "numba_fork": EXTERNAL.format(name="fork", arguments="")
    + at_call("fork = numba.njit(lambda: call())\nfork()\nwhile True:\n    fork()"),
    "sqlite_attach": at_call(
        "base = sqlite3.connect(':memory:')\nbase.execute('attach ? as b', (OUTSIDE + '/new',))\n"
        "base.execute('create table b.t (x)')",
        "import sqlite3",
    ),
    "history_of_readline": at_call("readline.write_history_file(OUTSIDE + '/new')", "import readline"),
    # Others' processes ------------------------------------------------------------------------------------------------
    "pidfd": at_call("signal.pidfd_send_signal(os.pidfd_open(VICTIM), signal.SIGKILL)", "import os, signal"),
    "sigio": at_call(
        "r, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, VICTIM)\nfcntl.fcntl(r, 10, 9)\n"
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')",
        "import fcntl, os",
    ),
    "prlimit": at_call("resource.prlimit(VICTIM, resource.RLIMIT_CPU, (0, 0))", "import resource"),
    "renice": at_call("os.setpriority(os.PRIO_PROCESS, VICTIM, 19)"),
    "renice_user": at_call("os.setpriority(os.PRIO_USER, 0, 19)\nreturn 1"),
    "affinity": at_call("os.sched_setaffinity(VICTIM, {0})"),
    "kills": at_call("os.kill(VICTIM, 9)"),
    "kills_all": at_call("os.kill(-1, 9)\nreturn 1"),
    "kills_every_number": at_call(
        "for pid in range(3, 60000):\n    try:\n        os.kill(pid, 9)\n    except OSError:\n        continue\n"
        "    if pid == VICTIM:\n        raise ValueError('DONE')\nreturn 1"
    ),
    "ptrace": at_call("if ctypes.CDLL(None).ptrace(16, VICTIM, 0, 0):\n    return 1", "import ctypes"),
    "environment_of_others": at_call(
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n    text = open(f'/proc/{pid}/cmdline').read()\n"
        "    if '3600' in text:\n        raise ValueError('DONE')\nreturn 1"
    ),
    "terminal": at_call("open('/dev/tty', 'w').write('x')"),
    # Files ------------------------------------------------------------------------------------------------------------
    "writes": at_call("open('/tmp/its_own', 'w').close()\nopen(OUTSIDE + '/new', 'w')"),
    "writes_into_the_project": at_call("open(ROOT + '/tutorials/assignment/new.py', 'w')"),
    "writes_into_itself": at_call("open(__file__, 'a').write('#')"),
    "deletes": at_call("os.remove(OUTSIDE + '/kept.txt')"),
    "reads": at_call("raise ValueError('DONE' + open(OUTSIDE + '/kept.txt').read())"),
    "reads_a_home_folder": at_call("raise ValueError('DONE' + open(SECRET).read())"),
    "reads_passwords": at_call("raise ValueError('DONE' + open('/etc/passwd').read())"),
    "mounts": at_call(
        "libc = ctypes.CDLL(None)\nif libc.unshare(0x10020000) or libc.mount(b'x', b'/tmp', b'tmpfs', 0, None):\n"
        "    return 1",
        "import ctypes",
    ),
    "is_root_again": at_call("os.setuid(0)"),
    # The network ------------------------------------------------------------------------------------------------------
    "connects": at_call("socket.create_connection(('127.0.0.1', PORT), 1)", "import socket"),
    "connects_elsewhere": at_call("socket.create_connection(('1.1.1.1', 53), 2)", "import socket"),
    "sends": at_call(
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))", "import socket"
    ),
    # Memory, processes, time ------------------------------------------------------------------------------------------
    "memfd": at_call(
        "files = []\nfor i in range(900):\n    files.append(os.memfd_create('m'))\n"
        "    for _ in range(7):\n        os.write(files[-1], bytes(1 << 20))"
    ),
    "fills_a_disk": at_call(
        "n = 0\nfor folder in ('/tmp', '.', '/dev/shm', '/root', '/home', '/var/tmp', '/usr', '/'):\n"
        "    for i in range(70):\n        try:\n            with open(f'{folder}/{i}', 'wb') as file:\n"
        "                file.write(bytes(10 << 20))\n            n += 1\n        except OSError:\n            break\n"
        "if n < 50:\n    return 1"
    ),
    "fills_memory": at_call("kept = [bytearray(1 << 30) for _ in range(6)]"),
    "fills_memory_in_children": at_call(
        "n = 0\nfor _ in range(50):\n    if os.fork() == 0:\n        kept = b'x' * (1 << 28)\n"
        "        time.sleep(60)\n    n += 1",
        "import os, time",
    ),
    "fills_memory_together": at_call(
        "for _ in range(9):\n    if os.fork() == 0:\n        kept = b'x' * (1 << 30)\n        time.sleep(60)\n"
        "time.sleep(60)",
        "import os, time",
    ),
    "forks": at_call("while True:\n    os.fork()"),
    "forks_50_times": at_call("for _ in range(50):\n    if os.fork() == 0:\n        time.sleep(60)", "import os, time"),
    "threads": at_call(
        "for _ in range(1000):\n    threading.Thread(target=time.sleep, args=(60,)).start()", "import threading, time"
    ),
    "outlives": at_call("subprocess.Popen(['sleep', '987'], start_new_session=True)\nreturn 1", "import subprocess"),
    "daemon": at_call(
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execvp('sleep', ['sleep', '987'])\n"
        "    os._exit(0)\nreturn 1"
    ),
    "hears_no_signal": at_call(
        "for n in range(1, 32):\n    if n not in (9, 19):\n        signal.signal(n, signal.SIG_IGN)\n"
        "while True:\n    pass",
        "import signal",
    ),
    "is_deaf": at_call("threading.Thread(target=lambda: 7 ** 10**9).start()\nreturn 1", "import threading"),
    "hangs": "def relu_forward(x):\n    while True:\n        pass\n",
    "hangs_at_import": "while True:\n    pass\n",
    "crashes": at_call("os._exit(0)"),
    "segfaults": at_call("ctypes.string_at(0)", "import ctypes"),
    "exits": "import sys\n\nsys.exit(0)\n",
    # Points for nothing -----------------------------------------------------------------------------------------------
    "wraps_the_reference": "from reference_numpy.layers import linear_backward as g, linear_forward as f\n\n\n"
    f"{WRAPPER}",
    "wraps_the_projects": "import sys\n\nsys.path.append(ROOT)\nsys.modules.pop('reference_numpy', None)\n"
    f"from reference_numpy.layers import linear_backward as g, linear_forward as f\n\n\n{WRAPPER}",
    "wraps_what_is_given": f"from given import linear_backward as g, linear_forward as f\n\n\n{WRAPPER}",
    "wraps_what_is_behind": "import given\n\nbehind = given.check.__globals__\n"
    f"f, g = behind['linear_forward'], behind['linear_backward']\n\n\n{WRAPPER}",
    "wraps_what_lies_about": "import gc, types\n\nfunctions = {f.__name__: f for f in gc.get_objects() if "
    "isinstance(f, types.FunctionType) and 'reference' in str(f.__module__)}\n"
    f"f, g = functions['linear_forward'], functions['linear_backward']\n\n\n{WRAPPER}",
    "reads_the_reference": "with open(ROOT + '/reference_numpy/layers.py') as file:\n"
    f"    exec(file.read())\nf, g = linear_forward, linear_backward\n\n\n{WRAPPER}",
    "asks_torch": "import sys\n\nsys.modules.pop('torch', None)\nimport torch\n\n\n"
    "def linear_forward(x, w, b):\n    x, w, b = (torch.tensor(a, requires_grad=True) for a in (x, w, b))\n"
    "    out = torch.nn.functional.linear(x, w, b)\n    return out.detach().numpy(), (out, x, w, b)\n\n\n"
    "def linear_backward(dout, cache):\n    out, *inputs = cache\n"
    "    return tuple(g.numpy() for g in torch.autograd.grad(out, inputs, torch.tensor(dout)))\n",
    "answers_itself": "import os\n\nfor i in range(3, 30):\n    try:\n        os.write(i, b'\\0\\0\\0\\4nope')\n"
    "    except OSError:\n        pass\n",
    "patches": "import numpy as np\nimport numpy.testing\n\n"
    "for name in ('allclose', 'array_equal', 'isnan', 'asarray', 'frombuffer'):\n"
    "    setattr(np, name, lambda *a, **k: True)\n\n\n"
    "def linear_forward(x, w, b):\n    return x @ w.T + b, (x, w)\n",
    "patches_what_asks": "import sys\n\nasker = sys.modules['__main__']\nasker.ask = lambda *a: 1\n"
    "asker.problem = lambda error: ('right', '')\n",
    "equals_everything": "class Same:\n    def __eq__(self, other):\n        return True\n\n\n"
    "def linear_forward(x, w, b):\n    return Same(), None\n\n\ndef linear_backward(dout, cache):\n    return Same()\n",
    # The teacher's terminal and machine -------------------------------------------------------------------------------
    "escapes": at_call("raise ValueError('\\x1b[2J\\x1b]0;gotcha\\x07\\u202e\\n\\rright')"),
    "escapes_in_a_key": at_call("return {'\\x1b[2J': 1.0}"),
    "prints": at_call("print('x' * 50_000_000)\nreturn 1"),
    "answers_gigabytes": at_call("import numpy\nreturn numpy.zeros((1 << 26,))"),
    "answers_deeply": at_call("a = ()\nfor _ in range(900):\n    a = (a,)\nreturn a, a"),
}  # fmt: skip
