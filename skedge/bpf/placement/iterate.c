/* Iterators over the stores of placements: the truth that counters are reconciled with. Reading the pinned iterator
 * yields one struct socket_record for each placement that is open. Compiled twice, as the kernel finds what to
 * iterate over by the function's name: for placements_v2, and with SECOND for flows_v2; with PLACEMENTS_V1 for what sockets
 * have in the older layout (placement/store.h). With RECOUNT each is the walk of a recount (placement/recount.h) and yields
 * nothing. That over flows also ends those that were idle for too long. */
#include <uapi/linux/bpf.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/store.h"
#include "common/iterators.h"

struct sock;
/* As the kernel has it: the pointers' types come from the kernel's BTF, by position. */
struct bpf_iter__bpf_sk_storage_map {
    struct bpf_iter_meta *meta;
    struct bpf_map *map;
    struct sock *sk;
    void *value;
};
/* bcc declares it with a 32-bit result. */
static __u64 (*socket_cookie)(void *sk) = (void *)BPF_FUNC_get_socket_cookie;

/* Write one record: the client is the socket, or its peer where the socket is the workload's. @spare: 0 where the layout
 * has none. */
static __always_inline void placement_record_write(struct seq_file *seq, struct sock *sk, struct placement *placement,
                                                   __u64 *spare, struct socket_record *stored)
{
    struct { __u32 daddr; __u32 saddr; __u32 hash; __u16 dport; __u16 port; __u16 family; } head = {};
    struct placement_record *record = &stored->record;

    bpf_probe_read_kernel(&head, sizeof(head), (void *)sk);
    bpf_probe_read_kernel(&record->placement, sizeof(record->placement), placement);
    if (spare)
        bpf_probe_read_kernel(&stored->spare, sizeof(stored->spare), spare);
    record->cookie = socket_cookie(sk);
    record->client_port = placement->passive ? __builtin_bswap16(head.dport) : head.port;
    record->client[0] = record->client[1] = 0;
    record->client[2] = MAPPED_PREFIX;
    record->client[3] = placement->passive ? head.daddr : head.saddr;
    if (head.family == AF_INET6_)
        bpf_probe_read_kernel(&record->client, sizeof(record->client),
                              (void *)sk + OFF_RCV_SADDR6 - (placement->passive ? sizeof(record->client) : 0));
    bpf_seq_write(seq, stored, sizeof(*stored));
}

#ifdef RECOUNT
/* End a flow that was idle for too long. Say first, then look: a datagram that came meanwhile has either seen this, and
 * places the flow anew, or is seen here, and the flow goes on. */
static __always_inline void udp_flow_sweep(struct placement *flow, __u64 before)
{
    __u64 word = flow->placed;

    if (!word || flow->seen >= before || __sync_val_compare_and_swap(&flow->placed, word, 0) != word)
        return;
    if (*(volatile __u64 *)&flow->seen >= before && !__sync_val_compare_and_swap(&flow->placed, 0, word))
        return;
    workload_uncount(word, 0);
}
#endif

#if !defined(SECOND) && !defined(PLACEMENTS_V1)
int bpf_iter__bpf_sk_storage_map(struct bpf_iter__bpf_sk_storage_map *ctx)
{
    struct socket_placement *stored = ctx->value;
#ifdef RECOUNT
    iterator_pause((struct iter_meta *)ctx->meta);
    if (stored)
        placement_find(&stored->placement);
#else
    struct socket_record record = {};
    struct sock *sk = ctx->sk;

    if (stored && sk && stored->placement.placed)
        placement_record_write(((struct iter_meta *)ctx->meta)->seq, sk, &stored->placement, stored->spare, &record);
#endif
    return 0;
}
#elif !defined(SECOND)
/* Of an older placement that is not open what counts is where packets lead the socket, and whether it keeps to IPv4, unless
 * its new one says so; it is written too, so that the loader knows. Of two that are open (a connect by a program of the
 * version before came after one of this version, for the other family of the same UDP socket) the earlier one is over. */
int bpf_iter__bpf_sk_storage_map(struct bpf_iter__bpf_sk_storage_map *ctx)
{
    struct placement *old = ctx->value;
    struct socket_placement *stored;
    struct sock *sk = ctx->sk;
#ifdef RECOUNT
    iterator_pause((struct iter_meta *)ctx->meta);
#else
    struct socket_record record = {};
#endif
    if (!old || !sk)
        return 0;
    stored = placements_v2.sk_storage_get(sk, 0, 0);
    if (stored && stored->placement.placed && old->placed) {
        if (stored->placement.placed_at < old->placed_at)
            placement_release(&stored->placement, 0);
        else
            placement_release(old, 0);
    }
#ifdef RECOUNT
    placement_find(old);
#else
    if (old->placed || (!stored && old->reason == REASON_SOURCE_BOUND) ||
        (old->mapped && !(stored && stored->placement.mapped)))
        placement_record_write(((struct iter_meta *)ctx->meta)->seq, sk, old, 0, &record);
#endif
    return 0;
}
#else
int bpf_iter__bpf_sk_storage_map(struct bpf_iter__bpf_sk_storage_map *ctx)
{
#ifdef PLACEMENTS_V1
    struct udp_flows_v1 *flows = ctx->value;
#else
    struct udp_flows *flows = ctx->value;
#endif
    struct sock *sk = ctx->sk;
#ifdef RECOUNT
    __u32 zero = 0;
    struct config *config = config_v1.lookup(&zero);

    iterator_pause((struct iter_meta *)ctx->meta);
    if (!config)
        return 0;
#else
    struct socket_record record = {};
#endif
    if (!flows || !sk)
        return 0;
#pragma unroll
    for (int i = 0; i < UDP_FLOWS; i++) {
#ifdef PLACEMENTS_V1
        struct placement *flow = &flows->flow[i];
        __u64 *spare = 0;
#else
        struct placement *flow = &flows->flow[i].placement;
        __u64 *spare = flows->flow[i].spare;
#endif

#ifdef RECOUNT
        udp_flow_sweep(flow, config->sweep_before);
        placement_find(flow);
#else
        if (flow->placed)
            placement_record_write(((struct iter_meta *)ctx->meta)->seq, sk, flow, spare, &record);
#endif
    }
    return 0;
}
#endif
