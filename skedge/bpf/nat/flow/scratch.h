/* Scratch memory of flow creation: what the programs that create a flow hand to one another. */
#ifndef SKEDGE_NAT_FLOW_SCRATCH_H
#define SKEDGE_NAT_FLOW_SCRATCH_H

/* How many flows towards one workload find a port within the tries: an eighth of the range stays unused. */
INLINE __u64 nat_config_port_limit(const struct nat_config *config)
{
    __u32 range = (__u32)config->high - config->low + 1;

    return range - range / 8;
}

/* The flow that is being created, one a processor: the stack is too small, and the programs that create it call one
 * another, as the verifier has not the patience for all ways through them together. */
struct scratch {
    struct nat_flow flow; /* forward; flow.from and flow.to are chosen by the caller */
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
