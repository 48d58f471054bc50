/* Scratch memory of flow creation: what the programs that create a flow hand to one another. */
#ifndef SKEDGE_NAT_FLOW_SCRATCH_H
#define SKEDGE_NAT_FLOW_SCRATCH_H

/* How many flows towards one workload find a port within the tries: an eighth of a range stays unused. In the lower half
 * for a workload on a machine of the LAN, in the upper one for a workload of another site (see workload_pick()). */
INLINE __u64 nat_port_limits(const struct nat_config *config, int v6)
{
    __u32 range = (__u32)config->high - config->low + 1, zero = 0;
    struct nat_addresses *nat = nat_addresses_v1.lookup(&zero);
    __u64 far = range - range / 8;

    if (nat && nat->flags & NAT_TOWARDS_SITES && (v6 ? nat->own6[0] : nat->own4)) {
        far = (__u32)nat->high - nat->low + 1;
        far -= far / 8;
    }
    return far << 32 | (range - range / 8);
}

/* The flow that is being created, one a processor: the stack is too small, and the programs that create it call one
 * another, as the verifier has not the patience for all ways through them together. */
struct scratch {
    /* Forward; flow.from and flow.to are chosen by the caller. Before the pick, flow.placed is what an attempt that is
     * placed anew still counts. */
    struct nat_flow flow;
    struct nat_flow reply;
    struct nat_key answer; /* reply's key */
    struct nat_key ended;
    struct nat_key key; /* flow's key */
    struct affinity_key client; /* as listener_choose_service() left it, for affinity_update() */
    __u32 has_affinity;         /* the listener has affinity */
    __u32 service;
    __u32 kind;
    __u32 preserves_src;        /* the client's address stays, and its port too where that is free */
};
BPF_TABLE_PINNED("percpu_array", __u32, struct scratch, nat_making_v1, 1, PIN_DIR "/nat_making_v1");

INLINE struct scratch *scratch_lookup(void)
{
    __u32 zero = 0;

    return nat_making_v1.lookup(&zero);
}

INLINE struct scratch *scratch_reset(void)
{
    struct scratch *scratch = scratch_lookup();

    if (scratch)
        __builtin_memset(scratch, 0, sizeof(*scratch));
    return scratch;
}

#endif
