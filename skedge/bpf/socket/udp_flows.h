/* Unconnected UDP: a socket's flows, one a listener that it talks to, and small helpers of the connect programs. */
#ifndef SKEDGE_FLOWS_H
#define SKEDGE_FLOWS_H

/* Keep what the socket asked for, before the pick: a target that does not come leaves the old one unreachable. */
static __always_inline void keep_wish(struct placement *placement, const struct wish *wish)
{
    placement->listener[0] = wish->to.addr[0];
    placement->listener[1] = wish->to.addr[1];
    placement->listener[2] = wish->to.addr[2];
    placement->listener[3] = wish->to.addr[3];
    placement->listener_port = wish->to.port;
    placement->protocol = wish->to.protocol;
    placement->need = wish->need;
    placement->prefer6 = wish->prefer6;
    placement->target_port = 0;
}

/* Return the reason of a pick that found nobody. */
static __always_inline int why_not(const struct placement *placement)
{
    int bound = placement->reason == REASON_NO_FAMILY && (placement->need & SLOT_LOCAL);

    return bound ? REASON_SOURCE_BOUND : placement->reason;
}

static __always_inline int same(const __u32 *a, __u32 port, const struct listener_key *key)
{
    return !((a[0] ^ key->addr[0]) | (a[1] ^ key->addr[1]) | (a[2] ^ key->addr[2]) | (a[3] ^ key->addr[3]) |
             (port ^ key->port));
}

/* Find the socket's flow to the listener, or place a new one in the room of the flow that was idle longest.
 * Returns 0 with the flow in *found, else the reason why there is none. */
static __always_inline int place_flow(struct bpf_sock *sk, struct config *config, struct listener *listener, struct wish *wish,
                             struct placement **found)
{
    struct flows *flows = flows_v1.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    __u64 oldest = ~0ull, index = 0, hit = 0, word;
    struct placement *flow;

    if (!flows)
        return REASON_TABLE_FULL;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++) {
        flow = &flows->flow[i];
        if (same(flow->listener, flow->listener_port, &wish->to)) {
            index = i;
            hit = 1;
            break;
        }
        if (flow->seen < oldest) {
            oldest = flow->seen;
            index = i;
        }
    }
    *(volatile __u64 *)&flows->index = index; /* through memory, as in slot_of() */
    flow = &flows->flow[*(volatile __u64 *)&flows->index & (UDP_FLOWS - 1)];
    if (hit && goes_on(flow->placed)) {
        flow->seen = bpf_ktime_get_ns();
        *found = flow;
        return 0;
    }
    release(flow, 0);
    keep_wish(flow, wish);
    word = pick(aim(listener, &wish->client, flow), config->port_limit, FOR_SOCKET, flow);
    if (!word)
        return why_not(flow);
    put(flow, word);
    remember(listener, &wish->client, word);
    *found = flow;
    return 0;
}

/* Return the flow (or the connected placement) whose workload sent from this address, 0 for none. */
static __always_inline struct placement *flow_from(struct bpf_sock *sk, const struct listener_key *from)
{
    struct placement *connected = find(sk);
    struct flows *flows;

    if (connected && connected->placed && same(connected->target, connected->target_port, from))
        return connected;
    flows = flows_v1.sk_storage_get(sk, 0, 0);
    if (!flows)
        return 0;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++) {
        struct placement *flow = &flows->flow[i];

        if (same(flow->target, flow->target_port, from)) {
            flow->seen = bpf_ktime_get_ns();
            return flow;
        }
    }
    return 0;
}

static __always_inline void release_flows(struct bpf_sock *sk)
{
    struct flows *flows = flows_v1.sk_storage_get(sk, 0, 0);

    if (!flows)
        return;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++)
        release(&flows->flow[i], 0);
}

#endif
