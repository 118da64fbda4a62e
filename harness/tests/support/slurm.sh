#!/bin/bash
# A Slurm cluster of two nodes on this machine, for one command: slurm.sh DIR COMMAND... Nothing outlives it, since all
# of it is in a process namespace of its own. The network and the host name are its own, too.
set -u
if [ "${SLURM_TEST_INSIDE:-}" != yes ]; then
    exec env SLURM_TEST_INSIDE=yes unshare --pid --fork --kill-child=KILL --mount-proc --net --uts "$0" "$@"
fi
dir=$1
shift
hostname localhost
ip link set lo up
# Names are resolved only where there is an address besides that of the loopback.
ip address add 192.0.2.1/32 dev lo
cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=1
NodeName=w1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17001 CPUs=2 State=UNKNOWN
NodeName=w2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17002 CPUs=2 State=UNKNOWN
PartitionName=p Nodes=w1,w2 Default=YES State=UP
END
echo 'CgroupPlugin=cgroup/v1' >"$dir/cgroup.conf"
export SLURM_CONF=$dir/slurm.conf
mkdir -p "$dir/state" "$dir/spool-w1" "$dir/spool-w2"
head -c 64 /dev/urandom >"$dir/munge.key"
chmod 600 "$dir/munge.key"
munged --foreground --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munge.pid" \
    --log-file="$dir/munge.log" --seed-file="$dir/munge.seed" >"$dir/munged" 2>&1 &
# until COMMAND...: waits until a command succeeds, at most half a minute.
until_ready() {
    local deadline=$((SECONDS + 30))
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "not ready: $*" >&2
            tail -n 3 "$dir"/*.log "$dir"/munged >&2
            exit 99
        fi
        sleep 0.1
    done
}
idle() { [ "$(sinfo --noheader --format=%T%D 2>/dev/null)" = idle2 ]; }
until_ready test -S "$dir/munge.socket"
slurmctld -D -f "$SLURM_CONF" >"$dir/slurmctld" 2>&1 &
for node in w1 w2; do
    slurmd -D -N "$node" -f "$SLURM_CONF" >"$dir/slurmd-$node" 2>&1 &
done
until_ready idle
"$@"
