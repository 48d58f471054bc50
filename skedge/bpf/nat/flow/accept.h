/* The hand-over of a LAN client's connection from the flow table to the socket of this host that accepted it: from then on
 * the connection is counted as one at connect time is, by what is stored with its socket. */
#ifndef SKEDGE_NAT_FLOW_ACCEPT_H
#define SKEDGE_NAT_FLOW_ACCEPT_H

/* The key of the packets that the socket receives. */
static __always_inline void nat_key_from_sock(struct bpf_sock_ops *ops, struct nat_key *key)
{
    __u32 from4 = ops->remote_ip4, to4 = ops->local_ip4;

    OPAQUE(from4); /* or one read with a changed pointer would serve both families, which the verifier refuses */
    OPAQUE(to4);
    key->protocol = PROTO_TCP;
    key->from_port = ops->remote_port >> 16; /* the upper half, in network byte order */
    key->to_port = __builtin_bswap16(ops->local_port);
    if (ops->family == AF_INET6_) {
        key->from[0] = ops->remote_ip6[0];
        key->from[1] = ops->remote_ip6[1];
        key->from[2] = ops->remote_ip6[2];
        key->from[3] = ops->remote_ip6[3];
        key->to[0] = ops->local_ip6[0];
        key->to[1] = ops->local_ip6[1];
        key->to[2] = ops->local_ip6[2];
        key->to[3] = ops->local_ip6[3];
        return;
    }
    key->from[0] = key->from[1] = key->to[0] = key->to[1] = 0;
    key->from[2] = key->to[2] = MAPPED_PREFIX;
    key->from[3] = from4;
    key->to[3] = to4;
}

/* Take hold of the flow of a connection that is established: one that lives, or that a reset ended which was none. */
static __always_inline int flow_hand_over(struct nat_flow *flow, __u64 state)
{
    if (state_change(flow, state, FLOW_TAKEN | FLOW_ENDING, FLOW_TAKEN | FLOW_ENDING | FLOW_ENDED))
        return 1;
    return (state_read(flow) & FLOW_RESET) && state_change(flow, state, FLOW_TAKEN, FLOW_TAKEN);
}

/* A socket that was accepted: when it is a LAN client's, its placement moves to it. Returns whether it did. */
static __always_inline int placement_take_over(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
    __u32 port = ops->local_port, word = port >> 6 & (PORT_WORDS / 2 - 1);
    __u64 *ports = ports_v1.lookup(&word), placed;
    struct placement *from, *to;
    struct nat_flow *flow;
    struct nat_key key;
    __u64 state;

    if (!ports || !(*ports >> (port & 63) & 1))
        return 0;
    nat_key_from_sock(ops, &key);
    flow = nat_flows_v1.lookup(&key);
    from = nat_placements_v1.lookup(&key);
    if (!flow || !from)
        return 0;
    state = state_read(flow);
    if (KIND_OF(state) != KIND_LOCAL || !placement_is_of(from, state))
        return 0;
    to = placement_create(sk);
    if (!to || !flow_hand_over(flow, state))
        return 0;
    __builtin_memcpy(to, from, sizeof(*to));
    to->placed = 0;
    to->passive = 1;
    placed = __sync_lock_test_and_set(&from->placed, 0);
    if (!placed && flow->placed)
        placed = workload_count_again(flow->placed);
    if (placed)
        __sync_lock_test_and_set(&to->placed, placed);
    flow_delete_held(&key, state);
    return placed != 0;
}

#endif
