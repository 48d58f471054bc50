/* Unconnected UDP: a socket's flows, one a listener that it talks to, and small helpers of the connect programs. */
#ifndef SKEDGE_SOCKET_UDP_FLOWS_H
#define SKEDGE_SOCKET_UDP_FLOWS_H

/* Store what the socket asked for, before the pick: a target that does not come leaves the old one unreachable. */
static __always_inline void placement_set_request(struct placement *placement, const struct request *request)
{
    placement->listener[0] = request->to.addr[0];
    placement->listener[1] = request->to.addr[1];
    placement->listener[2] = request->to.addr[2];
    placement->listener[3] = request->to.addr[3];
    placement->listener_port = request->to.port;
    placement->protocol = request->to.protocol;
    placement->need = request->need;
    placement->prefer6 = request->prefer6;
    placement->target_port = 0;
}

/* Return the reason of a pick that found nobody. */
static __always_inline int placement_failure(const struct placement *placement)
{
    int bound = placement->reason == REASON_NO_FAMILY && (placement->need & SLOT_OWN_SITE);

    return bound ? REASON_SOURCE_BOUND : placement->reason;
}

static __always_inline int listener_key_equals(const __u32 *a, __u32 port, const struct listener_key *key)
{
    return !((a[0] ^ key->addr[0]) | (a[1] ^ key->addr[1]) | (a[2] ^ key->addr[2]) | (a[3] ^ key->addr[3]) |
             (port ^ key->port));
}

/* Say that a flow is in use, before its placement is looked at (see udp_flow_sweep(); the hooks themselves run one after the
 * other, under the socket's lock). Only of a flow that may be swept this must be seen at once. */
static __always_inline void udp_flow_touch(struct placement *flow)
{
    __u64 now = bpf_ktime_get_ns();

    if (now - flow->seen > IDLE_AT_LEAST_NS)
        __sync_lock_test_and_set(&flow->seen, now);
    else
        flow->seen = now;
}

/* Take along what the socket has open in the older layout. The hooks of one socket run one after the other, and only the sweep
 * may end a flow meanwhile. Where the room is taken, the flow is placed anew with its next datagram: that can only be while
 * hooks of the version before are attached too. */
static __always_inline void udp_flows_move_v1(struct bpf_sock *sk, struct udp_flows *flows)
{
#ifdef PLACEMENTS_V1
    struct udp_flows_v1 *old = flows_v1.sk_storage_get(sk, 0, 0);

    if (!old)
        return;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++) {
        struct placement *to = &flows->flow[i].placement, *from = &old->flow[i];
        __u64 word = from->placed;

        if (!word || to->placed) {
            placement_release(from, 0);
            continue;
        }
        __builtin_memcpy((void *)to + sizeof(word), (void *)from + sizeof(word), sizeof(*to) - sizeof(word));
        if (__sync_val_compare_and_swap(&from->placed, word, 0) == word)
            __sync_lock_test_and_set(&to->placed, word);
    }
#endif
}

/* Return the socket's flows, 0 when there is no memory. */
static __always_inline struct udp_flows *udp_flows_create(struct bpf_sock *sk)
{
    struct udp_flows *flows = flows_v2.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

    if (flows)
        udp_flows_move_v1(sk, flows);
    return flows;
}

/* Find the socket's flow to the listener, or place a new one in the room of the flow that was idle longest.
 * Returns 0 with the flow in *found, else the reason why there is none. */
static __always_inline int udp_flow_place(struct bpf_sock *sk, struct config *config, struct listener *listener,
                                          struct request *request, struct placement **found)
{
    struct udp_flows *flows = udp_flows_create(sk);
    __u64 oldest = ~0ull, index = 0, hit = 0, word;
    struct socket_placement *stored;
    struct placement *flow;
    __u32 service;

    if (!flows)
        return REASON_TABLE_FULL;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++) {
        flow = &flows->flow[i].placement;
        if (listener_key_equals(flow->listener, flow->listener_port, &request->to)) {
            index = i;
            hit = 1;
            break;
        }
        if (flow->seen < oldest) {
            oldest = flow->seen;
            index = i;
        }
    }
    *(volatile __u64 *)&flows->index = index; /* through memory, as in service_slot() */
    stored = &flows->flow[*(volatile __u64 *)&flows->index & (UDP_FLOWS - 1)];
    flow = &stored->placement;
    if (hit) {
        udp_flow_touch(flow);
        if (placement_goes_on(*(volatile __u64 *)&flow->placed)) {
            *found = flow;
            return 0;
        }
    }
    placement_release(flow, 0);
    socket_placement_clear(stored);
    placement_set_request(flow, request);
    service = listener_choose_service(listener, &request->client, flow);
    word = workload_pick(service, config->port_limit, FOR_SOCKET, 0, flow);
    if (!word)
        return placement_failure(flow);
    placement_store(flow, word);
    affinity_store(listener, &request->client, word);
    *found = flow;
    return 0;
}

static __always_inline int udp_flow_is_from(const struct placement *flow, const struct listener_key *from)
{
    return listener_key_equals(flow->target, flow->target_port, from);
}

/* The same in the older layout. */
static __always_inline struct placement *udp_flow_lookup_v1(struct bpf_sock *sk, const struct listener_key *from)
{
#ifdef PLACEMENTS_V1
    struct udp_flows_v1 *old = flows_v1.sk_storage_get(sk, 0, 0);

    if (!old)
        return 0;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++) {
        if (udp_flow_is_from(&old->flow[i], from)) {
            old->flow[i].seen = bpf_ktime_get_ns();
            return &old->flow[i];
        }
    }
#endif
    return 0;
}

/* Return the flow (or the connected placement) whose workload sent from this address, 0 for none. Of several, at listeners that
 * have this workload in common, the one that was used last: who asks and waits is answered as he asked. */
static __always_inline struct placement *udp_flow_lookup(struct bpf_sock *sk, const struct listener_key *from)
{
    struct placement *connected = placement_lookup(sk), *flow;
    __u64 latest = 0, index = UDP_FLOWS;
    struct udp_flows *flows;

    if (connected && connected->placed && listener_key_equals(connected->target, connected->target_port, from))
        return connected;
    flows = flows_v2.sk_storage_get(sk, 0, 0);
    if (!flows)
        return udp_flow_lookup_v1(sk, from);
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++) {
        flow = &flows->flow[i].placement;
        if (flow->seen > latest && udp_flow_is_from(flow, from)) {
            latest = flow->seen;
            index = i;
        }
    }
    if (index == UDP_FLOWS)
        return udp_flow_lookup_v1(sk, from);
    *(volatile __u64 *)&flows->index = index; /* through memory, as in service_slot() */
    flow = &flows->flow[*(volatile __u64 *)&flows->index & (UDP_FLOWS - 1)].placement;
    flow->seen = bpf_ktime_get_ns();
    return flow;
}

static __always_inline void udp_flows_release(struct bpf_sock *sk)
{
    struct udp_flows *flows = flows_v2.sk_storage_get(sk, 0, 0);
#ifdef PLACEMENTS_V1
    struct udp_flows_v1 *old = flows_v1.sk_storage_get(sk, 0, 0);

    if (old) {
#pragma unroll
        for (int i = 0; i < UDP_FLOWS; i++)
            placement_release(&old->flow[i], 0);
    }
#endif
    if (!flows)
        return;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++)
        placement_release(&flows->flow[i].placement, 0);
}

#endif
