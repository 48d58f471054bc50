/* Unconnected UDP: cgroup programs that lead each datagram to a listener to its flow's workload, and say back who sent it. */
#include <uapi/linux/bpf.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/pick.h"
#include "placement/store.h"
#include "socket/request.h"
#include "placement/listener.h"
#include "socket/destination.h"
#include "socket/udp_flows.h"
#include "common/tail_calls.h"
#include "socket/bound.h"
#include "socket/verdicts.h"
#include "common/own_datagrams.h"

/* A datagram of the host's own. Where it leaves from a port that a UDP listener has too, its answer must be known. */
static __always_inline int own_datagram_note(struct bpf_sock *sk, const struct listener_key *to)
{
    __u32 port = sk->src_port, word = (port >> 6 & (PORT_WORDS / 2 - 1)) | PORT_WORDS / 2;
    __u64 *ports = ports_v1.lookup(&word), now;
    struct own_datagram answer = {};

    if (!ports || !(*ports >> (port & 63) & 1))
        return ALLOW;
    answer.from[0] = to->addr[0];
    answer.from[1] = to->addr[1];
    answer.from[2] = to->addr[2];
    answer.from[3] = to->addr[3];
    answer.from_port = to->port;
    answer.to_port = __builtin_bswap16(port);
    now = bpf_ktime_get_ns();
    own_datagrams_v1.update(&answer, &now);
    return ALLOW;
}

int skedge_sendmsg4(struct bpf_sock_addr *ctx)
{
    struct placement *flow = 0;
    struct bpf_sock *sk = ctx->sk;
    struct request request;
    __u32 zero = 0;
    struct config *config = config_v1.lookup(&zero);
    struct listener *listener;
    int reason;

    if (!sk || !config)
        return ALLOW;
    listener_key_read4(ctx, &request.to);
    listener = sock_lookup_listener(ctx, sk, config, &request.to);
    if (!listener)
        return own_datagram_note(sk, &request.to);
    if (sk->family == AF_INET6_)
        request_read_mapped(sk, config, &request);
    else
        request_read4(sk, config, &request);
    if (request.bound && sock_leave_to_packets(ctx, sk, &request))
        return ALLOW;
    reason = udp_flow_place(sk, config, listener, &request, &flow);
    if (reason || !flow)
        return connect_refuse(reason);
    ctx->user_ip4 = flow->target[3];
    ctx->user_port = flow->target_port;
    return ALLOW;
}

int skedge_sendmsg6(struct bpf_sock_addr *ctx)
{
    struct placement *flow = 0;
    struct bpf_sock *sk = ctx->sk;
    struct request request;
    __u32 zero = 0;
    struct config *config = config_v1.lookup(&zero);
    struct listener *listener;
    int reason;

    if (!sk || !config)
        return ALLOW;
    listener_key_read6(ctx, &request.to);
    listener = sock_lookup_listener(ctx, sk, config, &request.to);
    if (!listener)
        return own_datagram_note(sk, &request.to);
    request_read6(sk, config, 0, 1, &request);
    if (request.bound && sock_leave_to_packets(ctx, sk, &request))
        return ALLOW;
    reason = udp_flow_place(sk, config, listener, &request, &flow);
    if (reason || !flow)
        return connect_refuse(reason);
    ctx->user_ip6[0] = flow->target[0];
    ctx->user_ip6[1] = flow->target[1];
    ctx->user_ip6[2] = flow->target[2];
    ctx->user_ip6[3] = flow->target[3];
    ctx->user_port = flow->target_port;
    return ALLOW;
}

int skedge_recvmsg4(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    struct listener_key from;
    struct placement *flow;

    if (!sk)
        return ALLOW;
    listener_key_read4(ctx, &from);
    flow = udp_flow_lookup(sk, &from);
    if (flow) {
        ctx->user_ip4 = flow->listener[3];
        ctx->user_port = flow->listener_port;
    }
    return ALLOW;
}

int skedge_recvmsg6(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    struct listener_key from;
    struct placement *flow;

    if (!sk)
        return ALLOW;
    listener_key_read6(ctx, &from);
    flow = udp_flow_lookup(sk, &from);
    if (flow) {
        ctx->user_ip6[0] = flow->listener[0];
        ctx->user_ip6[1] = flow->listener[1];
        ctx->user_ip6[2] = flow->listener[2];
        ctx->user_ip6[3] = flow->listener[3];
        ctx->user_port = flow->listener_port;
    }
    return ALLOW;
}
