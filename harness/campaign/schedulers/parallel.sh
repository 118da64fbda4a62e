#!/bin/sh
# A campaign of 100 shards by GNU parallel, as many at a time as there are processors. Its arguments are those of
# harness:
#
#     parallel.sh sim --seeds 0..100000
#     harness merge campaign
#
# GNU parallel says which shard this is, PARALLEL_SEQ, but not of how many. A shard that was killed, or that its machine
# failed (75), is tried again; one that found a violation is, too, and says so at once, for it is there. With --sshlogin
# the shards run on other machines, in a directory that all of them share. The exit status is the number of shards that
# are not valid.
export HARNESS_SHARDS="${HARNESS_SHARDS:-100}"
seq "$HARNESS_SHARDS" |
    parallel -N0 --quote --retries 3 --env HARNESS_SHARDS \
        "${HARNESS:-harness}" "$@" --campaign "${CAMPAIGN:-campaign}"
