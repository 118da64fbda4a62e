//! The long help text.

/// What follows the options in `harness --help`.
pub(super) const AFTER_HELP: &str = "\
Faults:
  none                 no faults, clients only
  kill-master          SIGKILL of the master at random times, and a restart on the same data and
                       address
  kill-replica         the same for a replica
  pause-master         SIGSTOP of the master at random times, and SIGCONT between a few milliseconds
                       and longer than every timeout later
  pause-replica        the same for a replica
  restart-master       SIGTERM of the master at random times and in the middle of a commit, and a
                       restart after it has exited
  restart-replica      the same for a replica
  first-commit         SIGKILL of the master when it has answered Ok for the first time, at the
                       beginning of the run and after each of these kills; together with faults of
                       disks, also a power loss
  master-uncertainty   the master stops inside the window of uncertainty, when replicas have voted
                       yes and not all of them know the decision; then it is killed or continued
  replica-uncertainty  a replica stops around its vote or around the decision; then it is killed or
                       continued
  partition            nodes cannot reach each other, in one direction or both: one replica, the
                       master, or all nodes; messages sent meanwhile are lost
  messages             messages are lost, delayed, repeated or reordered, or held while their sender
                       or receiver restarts and then delivered to the new process
  second-master        a second master is started on the store of a paused one; it must be refused
  wipe-replica         a replica is started on an empty directory, with and without --bootstrap; it
                       must be refused; then it gets its own directory back
  power-loss           nodes lose the writes that they have not synced: one node, all replicas, or
                       all nodes, at random times, at crash points, and inside a commit to disk
  disk-full            a disk has no free space, or less than a replica keeps in reserve: it must
                       accept no values, and may end when its store cannot grow
  disk-error           writes or syncs of a disk fail; the node must end; when it is started again,
                       it may lose power, and with it what the failed sync has not saved
  disk-slow            each sync of a disk takes 50 to 1,500 ms
  disk-stall           a disk answers nothing for 0.2 to 5 s; the node must notice it, and may be
                       killed meanwhile
  bit-flip             a node is killed, and bits of its disk flip: of a value, of the WAL, or any;
                       the node must serve nothing that is damaged; it may refuse to start, and then
                       the disk comes back as it was
  restored-copy        a node is started on an older copy of its disk; it must be refused; then it
                       gets its own disk back; with other faults, of the master only
  power-loss and the six faults after it need root and /dev/fuse.
  hostile-clients      a client floods a node, takes no answers, leaves requests unfinished, or
                       keeps connections that it does not use
  crash-matrix         every crash point of a node and of its disk in turn, and at each a kill, a
                       power loss and a pause; without root or /dev/fuse no power loss; see --shard
  all                  all of these, several at a time; all-but-FAULT is all except FAULT; of other
                       systems: kill, pause and restart

  Of every other system:
  kill, pause, restart SIGKILL, SIGSTOP, or SIGTERM with a restart, of every process of a node
  power-loss, disk-full, disk-error, disk-slow, disk-stall, bit-flip, restored-copy
                       the faults of disks, for the directories that the file names as `power`,
                       or all that a node of a database has; see --disk
  partition            nothing passes between some nodes for 2 to 6 s; nodes and clients are in a
                       virtual network (see --lab). partition:TARGET cuts the target off from the
                       other nodes; partition:SHAPE is halves, minority-with-leader, ring (each node
                       hears another majority), bridge, one-way, isolated (each node alone) or client
                       (a client from its node). Without either, a shape is drawn each time
  packet, reset        packets of a node are late, lost, repeated or reordered for 1 to 5 s; every
                       connection of a node is reset; both in the virtual network
  clock                the wall clock of a node jumps by 1 ms to 4 h, or runs up to 90 % too fast or
                       too slow, for 0.5 to 5 s; if the system file says clock = true
  FAULT:TARGET         of one node (the default), minority, majority, all, leader, followers, or a
                       node's name: kill:leader
  FAULT+FAULT          the second while the first lasts, of kill, pause and restart:
                       pause:followers+kill:leader, disk-slow+kill:same
  FAULT>FAULT          the second just after the first: pause>kill:same
  FAULT@/REGEX/        when a line of a node's log matches: pause:leader@/became leader/

Other systems:
  A system file says how the nodes of a system are started and which program is its client, which
  may be in any language. `harness system new NAME` writes one to begin with, and `harness system
  check FILE` tries it. Without a claim in the file, only lost writes are violations.
  etcd, redis, postgresql and nats are built in, each behind a feature of the same name; their programs
  must be installed. `harness record` prints a table of what is found in them.

Exit status:
  0    valid
  1    invalid: a check found a violation
  2    unknown: a check could not decide, a requested fault was never injected, or a signal ended it
  75   of a shard: this machine failed it; `harness merge --help` says more
  254  bad arguments, or a record that cannot be read (of several, unless one is invalid)
  255  the harness failed

Run directory:
  A run is recorded in STORE/<system>-<faults>/<UTC time>/. STORE/latest links to the last run.
    history.jsonl     operations of the clients and injected faults, one event per line
    nodes/<name>/     the journal and the log of each node; `harness inspect --journal NODE` prints
                      a journal
    final.json        what every replica stored at the end
    test.json         the options, the seed, and the command that repeats the run
    results.json      the result of each check
    report.html       everything as a page; the plots are also separate .svg files

  The nodes' data is in a directory below $TMPDIR, which is removed at the end. If the harness is
  killed, its nodes die with it, and the next run removes the directory.

Signals:
  Ctrl-C ends a run in order: faults are healed, nodes stopped, and the history is checked and kept.
  A second Ctrl-C exits at once.

Examples:
  harness --faults master-uncertainty
  harness --faults kill-master,pause-replica --time-limit 60s --concurrency 20
  harness --faults all --seed 7 --test-count 20
  harness --faults replica-uncertainty --break vote-forced
  harness --system ./mykv.toml --workload register --faults kill,pause:leader
  harness --system etcd --workload append --faults kill,pause
  harness --system etcd --workload register --faults partition:leader,partition:ring
  harness check histories/latest
  harness inspect --key k3 --from 1.5s --to 2s
  harness serve";

/// What follows the options in `harness merge --help`.
pub(super) const AFTER_MERGE_HELP: &str = "\
Shards:
  sim, test (with --test-count), rules, record and check take --shard I/N: the I-th of N shards of
  their work. Seeds follow from the campaign and the shard, so a shard that is repeated does the same.
    sim      consecutive seeds of --seeds
    test     consecutive runs of --test-count; --seed is required
    rules    rows of the kill matrix
    record   rows of the table
    check    keys of a history of operations, components of one of transactions, each streamed
  With --campaign DIR and without --shard, the scheduler says which shard it is:
    Slurm          SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN, SLURM_ARRAY_TASK_COUNT
    Kubernetes     JOB_COMPLETION_INDEX, from 0; HARNESS_SHARDS is the number of shards
    AWS Batch      AWS_BATCH_JOB_ARRAY_INDEX, from 0; AWS_BATCH_JOB_ARRAY_SIZE
    GNU parallel   PARALLEL_SEQ, from 1; HARNESS_SHARDS
  A shard that is whole is DIR/shard-I-of-N, with summary.json (also the last line of its output) and
  what it keeps in runs/. Until then it has a hidden directory. A shard that is there is not repeated.
  Shards of another command, version of the harness or content of input files are refused.

Exit status of a shard:
  0, 1, 2, 254, 255  as ever; of 254 and 255 there is no shard
  75                 this machine failed it (a full disk, a missing program, a signal): try elsewhere

Exit status of merge:
  0, 1, 2            the greatest verdict of the shards; 1 if one is invalid, and otherwise 2 if
                     shards are missing, have not done all of their work, or are of different work

Examples:
  harness sim --seeds 0..100000 --shard 7/100 --campaign nightly
  harness check big.jsonl --shard 2/4 --campaign big
  harness merge nightly
  harness sim --seeds 100000..200000 --shard 7/100 --campaign next --failed-first nightly";

/// What follows the options of `soak`.
pub(super) const AFTER_SOAK_HELP: &str = "\
Each run is a process of its own: a system in turn, and a workload, up to three faults and a seed that are drawn. There is
a line for each run, and for one that is not valid also the first violation and the directory. Seeds that have shown a
violation are kept in .soak.json of the store, and are run first the next time, until they were valid three times in a row.

Exit status: 1 if a run was invalid; else 2 if one was unknown or had no verdict, if there was none, or after a signal; else 0.

  harness soak --systems twopc,etcd,./mykv.toml --for 8h
  harness soak --systems ./mykv.toml --faults kill,partition:leader --for 30m --stop-at-find";
