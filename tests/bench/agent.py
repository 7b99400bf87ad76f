"""What a daemon costs, from outside: agent.py PID EXPORTER_PID SECONDS, in the network namespace of both. Prints `name value`.

Memory is VmRSS, the most that any look saw; CPU is the process' own time, as the kernel counts it, over the whole stretch,
scrapes every 15 s included. A scrape is one request on a kept connection, until its last byte; the two take turns.
"""
import http.client
import os
import statistics
import sys
import time

pid, exporter, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
ticks = os.sysconf("SC_CLK_TCK")


def resident_mib(of):
    with open(f"/proc/{of}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def cpu_seconds(of):
    with open(f"/proc/{of}/stat") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / ticks


def connect(port):
    until = time.monotonic() + 20
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.connect()
            return connection
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def scrape(connection):
    begun = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept": "text/plain;version=0.0.4"})
    answer = connection.getresponse()
    page = answer.read()
    took = time.perf_counter() - begun
    assert answer.status == 200, answer.status
    return took * 1000, sum(not line.startswith(b"#") for line in page.splitlines())


ours, theirs = connect(19328), connect(19100)
time.sleep(3)
_, series = scrape(ours)
_, their_series = scrape(theirs)
begun, cpu, memory = time.monotonic(), cpu_seconds(pid), resident_mib(pid)
scrapes = 0
while time.monotonic() - begun < seconds:
    time.sleep(min(15.0, max(0.0, seconds - (time.monotonic() - begun))))
    scrape(ours)
    scrapes += 1
    memory = max(memory, resident_mib(pid))
elapsed = time.monotonic() - begun
share = (cpu_seconds(pid) - cpu) / elapsed * 100
pairs = [(scrape(ours)[0], scrape(theirs)[0]) for _ in range(200)]
print("memory", round(memory, 1))
print("cpu", round(share, 3))
print("scrapes", scrapes)
print("series", series)
print("their_series", their_series)
print("scrape", round(statistics.median(pair[0] for pair in pairs), 2))
print("their_scrape", round(statistics.median(pair[1] for pair in pairs), 2))
print("exporter_memory", round(resident_mib(exporter), 1))
