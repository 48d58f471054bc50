/* Placement at connect time: cgroup programs that send a socket of this host to the chosen workload, straight, and
 * keep the counts of open connections. No packet is ever rewritten. */
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
#include "nat/flow/types.h"
#include "nat/flow/conntrack.h"
#include "nat/flow/accept.h"

/* Place the socket. Returns 0 when it is placed (the target is in *placed), else the reason why it is not. */
static __always_inline int sock_place(struct bpf_sock *sk, struct config *config, struct listener *listener,
                                      struct request *request, struct placement **placed)
{
    struct placement *placement = placement_begin(sk);
    __u32 service;
    __u64 word;

    if (!placement)
        return REASON_TABLE_FULL;
    placement_set_request(placement, request);
    service = listener_choose_service(listener, &request->client, placement);
    word = workload_pick(service, config->port_limit, FOR_SOCKET, 0, placement);
    if (!word)
        return placement_failure(placement);
    placement_store(placement, word);
    affinity_store(listener, &request->client, word);
    *placed = placement;
    return 0;
}

int skedge_connect4(struct bpf_sock_addr *ctx)
{
    struct placement *placement = 0;
    struct bpf_sock *sk = ctx->sk;
    struct listener *listener;
    struct config *config;
    struct request request;
    __u32 zero = 0;
    int reason;

    config = config_v1.lookup(&zero);
    if (!sk || !config)
        return ALLOW;
    /* Before anything is known of the new destination: a connect(2) that failed and is retried on the same socket, to
     * anywhere, must not count twice. */
    socket_release(sk);
    listener_key_read4(ctx, &request.to);
    listener = sock_lookup_listener(ctx, sk, config, &request.to);
    if (!listener)
        return ALLOW;
    request_read4(sk, config, &request);
    if (request.bound && sock_leave_to_packets(ctx, sk, &request))
        return ALLOW;
    reason = sock_place(sk, config, listener, &request, &placement);
    if (reason || !placement)
        return connect_refuse(reason);
    ctx->user_ip4 = placement->target[3];
    ctx->user_port = placement->target_port;
    return ALLOW;
}

int skedge_connect6(struct bpf_sock_addr *ctx)
{
    struct placement *placement = 0;
    struct bpf_sock *sk = ctx->sk;
    struct listener *listener;
    struct config *config;
    struct request request;
    __u32 zero = 0;
    int mapped, was_mapped, reason;

    config = config_v1.lookup(&zero);
    if (!sk || !config)
        return ALLOW;
    was_mapped = socket_release(sk);
    listener_key_read6(ctx, &request.to);
    listener = sock_lookup_listener(ctx, sk, config, &request.to);
    if (!listener)
        return ALLOW;
    mapped = address_is_mapped(request.to.addr);
    if (mapped && sock_is_v6only(sk))
        return ALLOW; /* the kernel refuses it: such a socket has no IPv4 */
    request_read6(sk, config, mapped, 0, &request);
    if (was_mapped)
        request_stay_mapped(&request);
    if (request.bound && sock_leave_to_packets(ctx, sk, &request))
        return ALLOW;
    reason = sock_place(sk, config, listener, &request, &placement);
    if (reason || !placement)
        return connect_refuse(reason);
    ctx->user_ip6[0] = placement->target[0];
    ctx->user_ip6[1] = placement->target[1];
    ctx->user_ip6[2] = placement->target[2];
    ctx->user_ip6[3] = placement->target[3];
    ctx->user_port = placement->target_port;
    if (request.to.protocol == PROTO_TCP && address_is_mapped(placement->target))
        placement->mapped = 1;
    return ALLOW;
}

int skedge_getpeername4(struct bpf_sock_addr *ctx)
{
    struct placement *placement = ctx->sk ? placement_lookup(ctx->sk) : 0;

    if (placement && placement->placed && !placement->passive) {
        ctx->user_ip4 = placement->listener[3];
        ctx->user_port = placement->listener_port;
    }
    return ALLOW;
}

int skedge_getpeername6(struct bpf_sock_addr *ctx)
{
    struct placement *placement = ctx->sk ? placement_lookup(ctx->sk) : 0;

    if (placement && placement->placed && !placement->passive) {
        ctx->user_ip6[0] = placement->listener[0];
        ctx->user_ip6[1] = placement->listener[1];
        ctx->user_ip6[2] = placement->listener[2];
        ctx->user_ip6[3] = placement->listener[3];
        ctx->user_port = placement->listener_port;
    }
    return ALLOW;
}

/* Follow placed TCP sockets to their TCP_CLOSE, and see which connects their workload refused or left unanswered. */
int skedge_sockops(struct bpf_sock_ops *ops)
{
    struct placement *placement;
    struct bpf_sock *sk;

    if (ops->op == BPF_SOCK_OPS_RETRANS_CB && !ops->args[2]) /* it went out: see sock_is_unanswered() */
        bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RETRANS_CB_FLAG);
    if (ops->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ops->op != BPF_SOCK_OPS_STATE_CB &&
        ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
        return 1;
    sk = ops->sk;
    if (!sk)
        return 1;
    if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
        if (placement_take_over(ops, sk))
            bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
        return 1;
    }
    placement = placement_lookup(sk);
    if (!placement || !placement->placed)
        return 1;
    if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
        bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG |
                                           BPF_SOCK_OPS_RETRANS_CB_FLAG);
    else if (ops->args[1] == STATE_CLOSE)
        placement_release(placement, ops->args[0] == STATE_SYN_SENT && sock_is_unanswered(sk));
    return 1;
}

/* The last close(2) of a socket: ends a TCP connection even while its FIN is on the way, and all UDP flows. */
int skedge_release(struct bpf_sock *sk)
{
    struct placement *placement;

    if (sk->protocol != PROTO_TCP) {
        socket_release(sk);
        udp_flows_release(sk);
        return ALLOW;
    }
    placement = placement_lookup(sk);
    if (placement && placement->placed)
        placement_release(placement, sk->state == STATE_SYN_SENT && sock_is_unanswered(sk));
    return ALLOW;
}
