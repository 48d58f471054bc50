/* Iterator over the flows, compiled twice: with SECOND it ends those that were idle for too long, in the kernel, where no
 * packet comes in between, sums up the others, and is the walk of a recount (placement/recount.h); without, it writes one
 * struct nat_record for each. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <bcc/helpers.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/store.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "nat/flow/types.h"
#include "nat/flow/conntrack.h"
#include "nat/flow/attempt.h"
#include "common/iterators.h"

#define TIME_WAIT_NS 60000000000ull /* TIME_WAIT of Linux: for so long the port is better left alone */
#define EXCHANGE_NS 2000000000ull /* packets of a UDP flow over more than this make it a stream, as in nf_conntrack */
#define UNFINISHED_NS 1000000000ull /* a flow whose creation never came to its end */

/* 0 -> what the sweep found so far. */
BPF_TABLE_PINNED("array", __u32, struct flow_sums, flow_sums_v1, 1, PIN_DIR "/flow_sums_v1");

/* As the kernel has it: the pointers' types come from the kernel's BTF, by position. */
struct bpf_iter__bpf_map_elem {
    struct bpf_iter_meta *meta;
    struct bpf_map *map;
    void *key;
    void *value;
};

/* How long a UDP flow may be idle that was placed at @placed_at and had its last packet at @seen. */
INLINE __u64 udp_timeout(const struct nat_config *config, const struct nat_addresses *nat, __u64 placed_at, __u64 seen)
{
    return nat && nat->udp_stream && seen > placed_at + EXCHANGE_NS ? nat->udp_stream : config->udp;
}

/* How long the flow may be idle as it is now. One whose client alone has closed may wait for its answer. */
INLINE __u64 flow_timeout(const struct nat_config *config, __u64 said, __u64 answered)
{
    if (said & FLOW_ENDED) /* another site's host takes a port in TIME_WAIT, a machine of a LAN may not */
        return (answered & FLOW_PASSIVE) && KIND_OF(said) != KIND_REMOTE && config->closed &&
                       config->closed < TIME_WAIT_NS ? TIME_WAIT_NS : config->closed;
    if ((said | answered) & FLOW_FIN)
        return config->fin;
    return (said & FLOW_ACK) && (answered & FLOW_SYN) ? config->established : config->syn;
}

/* Take a placement away whose flow never came to be. Say first, then look: its maker, who may only have been stopped for
 * long, finds placed_at changed after it has put the flow in, or its flow is found here. */
INLINE void placement_give_up(struct nat_key *key)
{
    struct placement *placement = nat_placements_v1.lookup(key);
    __u64 at = placement ? placement->placed_at : 0;

    if (!at || bpf_ktime_get_ns() < at + UNFINISHED_NS || __sync_val_compare_and_swap(&placement->placed_at, at, 0) != at)
        return;
    if (nat_flows_v1.lookup(key)) {
        __sync_val_compare_and_swap(&placement->placed_at, 0, at);
        return;
    }
    placement_release(placement, 0);
    nat_placements_v1.delete(key);
}

/* Sum up one flow that goes on. */
INLINE void flow_sum(const struct nat_key *key, __u64 said, __u64 answered)
{
    __u32 zero = 0;
    struct flow_sums *sums = flow_sums_v1.lookup(&zero);

    if (!sums)
        return;
    __sync_fetch_and_add(&sums->kinds[KIND_OF(said) & 7], 1);
    if (key->protocol == IPPROTO_TCP && !(said & FLOW_ENDED) && !((said | answered) & FLOW_FIN) &&
        !((said & FLOW_ACK) && (answered & FLOW_SYN)))
        __sync_fetch_and_add(&sums->half_open, 1);
}

/* Write struct nat_record, part by part: as a whole it is too large for the stack. */
INLINE void flow_write(struct seq_file *seq, struct nat_key *key, struct nat_flow *forward, struct nat_flow *reply,
                       struct placement *placement)
{
    struct nat_flow none = {};
    struct {
        __u64 cookie;
        __u32 client[4];
        __u32 client_port;
        __u32 spare;
    } head = {};

    address_copy(head.client, key->from);
    head.client_port = bpf_ntohs(key->from_port);
    bpf_seq_write(seq, key, sizeof(*key));
    bpf_seq_write(seq, forward, sizeof(*forward));
    if (reply)
        bpf_seq_write(seq, reply, sizeof(*reply));
    else
        bpf_seq_write(seq, &none, sizeof(none));
    bpf_seq_write(seq, &head, sizeof(head));
    bpf_seq_write(seq, placement, sizeof(*placement));
}

int bpf_iter__bpf_map_elem(struct bpf_iter__bpf_map_elem *ctx)
{
    struct placement *placement = ctx->value;
    struct nat_flow *flow, *reply = 0;
    struct nat_key key, answer;
    __u64 seen, now = bpf_ktime_get_ns(), said, answered, timeout;
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);

    if (!placement || !ctx->key || !config)
        return 0;
#ifdef SECOND
    iterator_pause((struct iter_meta *)ctx->meta);
    placement_find(placement);
#endif
    bpf_probe_read_kernel(&key, sizeof(key), ctx->key);
    flow = nat_flows_v1.lookup(&key);
    if (!flow) {
        placement_give_up(&key);
        return 0;
    }
    said = state_read(flow);
    if (!placement_is_of(placement, said)) /* made anew a moment ago */
        return 0;
    if (KIND_OF(said) != KIND_LOCAL)
        reply = flow_other(&key, flow, said, &answer);
#ifdef SECOND
    answered = reply ? state_read(reply) : 0;
    seen = flow->seen;
    if (reply && reply->seen > seen)
        seen = reply->seen;
    timeout = key.protocol == IPPROTO_UDP
                  ? udp_timeout(config, nat_addresses_v1.lookup(&zero), placement->placed_at, seen)
                  : flow_timeout(config, said, answered);
    if (now > seen && now - seen > timeout)
        flow_delete(&key, flow, said, attempt_has_failed(&key, flow, said, reply));
    else
        flow_sum(&key, said, answered);
#else
    flow_write(((struct iter_meta *)ctx->meta)->seq, &key, flow, reply, placement);
#endif
    return 0;
}
