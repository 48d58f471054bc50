/* Iterator over the flows: writes those over links in which the machine of the LAN alone goes on speaking. What it sends again
 * was not answered, and its time-out doubles each time. Included after nat/iterate.c. */
#include "socket/stalled.h"

#define UNANSWERED_NS 400000000ull /* longer than any machine waits before it acknowledges */

int bpf_iter__bpf_map_elem__stalled(struct bpf_iter__bpf_map_elem *ctx)
{
    struct placement *placement = ctx->value;
    struct stalled_record record = {.what = STALLED_FLOW};
    struct nat_flow *forward, *reply, *speaks;
    struct nat_key key, answer;
    __u64 said, asked, answered;

    if (!placement || !ctx->key)
        return 0;
    bpf_probe_read_kernel(&key, sizeof(key), ctx->key);
    forward = key.protocol == IPPROTO_TCP ? nat_flows_v1.lookup(&key) : 0;
    if (!forward)
        return 0;
    said = state_read(forward);
    if ((said & FLOW_ENDED) || (KIND_OF(said) != KIND_REMOTE && KIND_OF(said) != KIND_OVERLAY))
        return 0;
    reply = flow_other(&key, forward, said, &answer);
    if (!reply || !(state_read(reply) & FLOW_SYN) || (state_read(reply) & FLOW_OWN) || !reply->placed)
        return 0; /* its own sockets: socket/stalled.c */
    asked = KIND_OF(said) == KIND_REMOTE ? forward->seen : reply->seen;
    answered = KIND_OF(said) == KIND_REMOTE ? reply->seen : forward->seen;
    if (asked < answered + UNANSWERED_NS)
        return 0;
    if (KIND_OF(said) == KIND_REMOTE) {
        address_copy(record.from, key.from);
        address_copy(record.to, key.to);
        address_copy(record.far, forward->to);
        record.from_port = bpf_ntohs(key.from_port);
        record.to_port = bpf_ntohs(key.to_port);
        record.sequence = (__u32)reply->placed;
    } else {
        address_copy(record.from, answer.from);
        address_copy(record.to, answer.to);
        address_copy(record.far, key.from);
        record.from_port = bpf_ntohs(answer.from_port);
        record.to_port = bpf_ntohs(answer.to_port);
        record.sequence = reply->placed >> 32;
    }
    record.unanswered_ms = (asked - answered) / 1000000;
    bpf_seq_write(((struct iter_meta *)ctx->meta)->seq, &record, sizeof(record));
    return 0;
}
