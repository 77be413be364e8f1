"""What a command takes: usage.py COMMAND... runs it and prints, after all that it prints, one line of JSON: seconds,
processor seconds, and the most memory that was resident, in bytes. Its exit code is the command's.

A program of its own, and a small one: a new process starts with the peak of the one that made it, so a script that has
arrays of its own would measure itself. Memory below this program's own, some 10 MiB, is not seen.
"""
import json
import os
import sys
import time

start = time.monotonic()
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
print(json.dumps({"seconds": time.monotonic() - start, "processor": used.ru_utime + used.ru_stime,
                  "memory": used.ru_maxrss * 1024}))
sys.exit(os.waitstatus_to_exitcode(status))
