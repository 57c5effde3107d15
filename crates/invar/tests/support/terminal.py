import fcntl, os, pty, select, signal, struct, sys, termios, time

command, steps = sys.argv[1], sys.argv[2:]
steps = list(zip(steps[::2], steps[1::2]))

pid, terminal = pty.fork()
if pid == 0:
    # The size must be there before the command looks.
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    os.execvp("sh", ["sh", "-c", command])

seen, all_output = b"", b""
deadline = time.monotonic() + 60
while True:
    ready, _, _ = select.select([terminal], [], [], 1)
    if time.monotonic() > deadline:
        sys.stdout.buffer.write(all_output + b"\nnever printed: " + repr(steps).encode())
        sys.exit(1)
    if not ready:
        continue
    try:
        piece = os.read(terminal, 65536)
    except OSError:
        piece = b""
    if not piece:
        break
    seen += piece
    all_output += piece
    while steps and steps[0][0].encode() in seen:
        wanted, action = steps.pop(0)
        seen = seen.split(wanted.encode(), 1)[1]
        kind, value = action.split(":", 1)
        if kind == "send":
            os.write(terminal, value.encode())
        elif kind == "end":
            with open(value, encoding="utf-8") as file:
                os.kill(int(file.read()), signal.SIGTERM)
        else:
            rows, columns = map(int, value.split("x"))
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(all_output)
sys.stdout.buffer.write(b"\nexit=%d\n" % os.waitstatus_to_exitcode(status))
