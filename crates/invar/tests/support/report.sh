# What a program finds around it, a line each: SECTION KEY VALUE.
grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status | sed 's/[[:space:]]\+/ /g; s/^/status /'
sed -n '2,$p' /proc/self/limits | sed 's/  \+/|/g; s/^/limit /'
while read -r _ _ _ _ target options rest; do
  echo "mount $target $options ${rest#*- }"
done </proc/self/mountinfo
for path in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi \
  /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware; do
  if [ -d "$path" ]; then echo "masked $path directory of $(ls -A "$path" | wc -l)"
  elif [ -e "$path" ]; then echo "masked $path file of $(head -c 1 "$path" 2>/dev/null | wc -c)"; fi
done
for path in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys / /dev /dev/shm /scratch /data; do
  if [ -w "$path" ]; then echo "writable $path yes"; else echo "writable $path no"; fi
done
for path in /dev/*; do
  if [ -h "$path" ]; then echo "device $path link to $(readlink "$path")"
  else echo "device $path $(stat -c '%F %a %t:%T %u:%g' "$path")"; fi
done
env | sed 's/^/env /'
echo "oom $(cat /proc/self/oom_score_adj)"
echo "cwd $(pwd)"
echo "umask $(umask)"
echo "hostname $(hostname)"
for name in pid ipc uts mnt cgroup net user; do echo "namespace $name $(readlink /proc/self/ns/$name)"; done
echo "processes $(ls -d /proc/[0-9]* | wc -l | sed 's/[0-9]/some/')"
echo "handles $(ls /proc/self/fd | tr '\n' ' ')"
echo "session $(cut -d ' ' -f 5-6 /proc/self/stat)"
echo "end"
