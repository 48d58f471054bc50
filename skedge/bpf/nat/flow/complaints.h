/* What unanswered attempts say of a workload, until it answers. */
#ifndef SKEDGE_NAT_FLOW_COMPLAINTS_H
#define SKEDGE_NAT_FLOW_COMPLAINTS_H

#define COMPLAINT_NS 60000000000ull /* so long one attempt waits for another that says the same */

/* An attempt that was not answered. */
struct complaint {
    __u64 at;     /* ns since boot */
    __u64 placed; /* the placement word, as the slot may be another workload's by now */
    __u32 client[4];
    __u32 client_port; /* NBO */
    __u32 spare;
};

/* service and slot, as in the placement word -> the last attempt that it did not answer; gone with its next answer */
BPF_TABLE_PINNED("lru_hash", __u32, struct complaint, nat_complaints_v1, 1024, PIN_DIR "/nat_complaints_v1");

/* 0 -> when a half-open flow last made room for a newer one (ns since boot) */
BPF_TABLE_PINNED("array", __u32, __u64, nat_crowded_v1, 1, PIN_DIR "/nat_crowded_v1");

#define CROWDED_NS 120000000000ull /* the longest that a server remembers a half-open connection */
#define COMPLAINT_KEY(word) ((__u32)(word) & (MAX_SERVICES * MAX_WORKLOADS - 1))
#define SAME_WORKLOAD (~(PLACED_NAT | PLACED_LAN | PLACED_PRESERVES_SRC | PLACED_ROUND)) /* what a word says of whom */

/* Forget what was said of a workload: it answers. */
INLINE void workload_answered(__u64 word)
{
    __u32 at = COMPLAINT_KEY(word);

    if (nat_complaints_v1.lookup(&at))
        nat_complaints_v1.delete(&at);
}

/* Say that an attempt was not answered. Returns whether that suspends the workload: there must have been another one, at
 * least @apart (ns) ago. */
INLINE int workload_complain(const struct nat_key *key, __u64 word, __u64 apart)
{
    struct complaint now = {
        .at = bpf_ktime_get_ns(),
        .placed = word & SAME_WORKLOAD,
        .client = {key->from[0], key->from[1], key->from[2], key->from[3]},
        .client_port = key->from_port,
    };
    __u32 at = COMPLAINT_KEY(word);
    struct complaint *before = nat_complaints_v1.lookup(&at);

    if (!before || before->placed != now.placed || now.at - before->at > COMPLAINT_NS) {
        nat_complaints_v1.update(&at, &now);
        return 0;
    }
    if (now.at - before->at < apart)
        return 0;
    if (before->client_port == now.client_port && before->client[0] == now.client[0] &&
        before->client[1] == now.client[1] && before->client[2] == now.client[2] && before->client[3] == now.client[3])
        return 0;
    nat_complaints_v1.delete(&at);
    return 1;
}

/* Whether a reset that answers a SYN suspends the workload. While half-open flows make room for others, their NAT ports are
 * used again before the server has forgotten them, and a SYN that meets the memory of another one may be reset for that. Then
 * a refusal is an attempt that was not answered, and in a second of such a flood a workload that lives answers others. */
INLINE int workload_refuses(const struct nat_key *key, __u64 word)
{
    __u32 zero = 0;
    __u64 *crowded = nat_crowded_v1.lookup(&zero);

    if (crowded && *crowded && bpf_ktime_get_ns() - *crowded < CROWDED_NS)
        return workload_complain(key, word, NANOSECONDS);
    return 1;
}

#endif
