/* A flow that its workload has not answered is an attempt, not a connection: it counts, but it may be moved, and what it
 * says of the workload is little. A client that falls silent says nothing at all; neither does one SYN, which may be
 * lost. A workload is suspended when two attempts were not answered and it answered nobody in between. */
#ifndef SKEDGE_NAT_FLOW_ATTEMPT_H
#define SKEDGE_NAT_FLOW_ATTEMPT_H

#include "nat/flow/complaints.h"

#define PATIENCE_NS 2500000000ull /* the SYN that comes 3 s after the first one goes elsewhere */

#define ATTEMPT_STAYS 0
#define ATTEMPT_MOVES 1  /* its workload takes nothing new any more */
#define ATTEMPT_FAILED 2 /* its workload has not answered for too long */
#define ATTEMPT_REFUSED 3 /* nobody listens there any more */
#define NOTHING_THERE 4  /* no flow, no attempt */

/* Whether nothing of the workload is known of this flow. Of a socket of this host nothing is seen here. */
INLINE int flow_is_unanswered(__u64 said, const struct nat_flow *reply)
{
    __u64 more = FLOW_FIN | FLOW_RST | FLOW_ACK;

    return !(said & (more | FLOW_ENDED | FLOW_ENDING)) && !(reply && (state_read(reply) & (more | FLOW_SYN)));
}

/* Whether a workload takes new connections: a drained or suspended one keeps what it has, but an attempt is not that. */
INLINE int workload_takes_new(__u64 word)
{
    __u32 id = (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1);
    struct service *service = services_v1.lookup(&id);
    struct slot *slot;

    if (!service)
        return 0;
    slot = &service->slots[word & (MAX_WORKLOADS - 1)];
    return (slot->generation & GENERATION_MASK) == (word >> PLACED_GENERATION_SHIFT & GENERATION_MASK) &&
           (slot->flags & SLOT_IN) && !slot->suspended;
}

/* What becomes of an unanswered flow whose client sends its SYN again. */
INLINE int attempt_judge(struct nat_key *key, struct nat_flow *flow)
{
    struct placement *placement;
    struct nat_flow *reply = 0;
    __u64 said = state_read(flow);
    struct nat_key answer;

    if (KIND_OF(said) != KIND_LOCAL)
        reply = flow_other(key, flow, said, &answer);
    if (!flow->placed || !flow_is_unanswered(said, reply))
        return ATTEMPT_STAYS;
    if (!workload_takes_new(flow->placed))
        return ATTEMPT_MOVES;
    placement = nat_placements_v1.lookup(key);
    return placement && bpf_ktime_get_ns() - placement->placed_at > PATIENCE_NS ? ATTEMPT_FAILED : ATTEMPT_STAYS;
}

/* Whether a flow that was idle for too long says that its workload does not answer: its SYN was sent more than once. */
INLINE int attempt_has_failed(const struct nat_key *key, const struct nat_flow *flow, __u64 said,
                              const struct nat_flow *reply)
{
    if (key->protocol != IPPROTO_TCP || KIND_OF(said) == KIND_LOCAL || !(said & FLOW_AGAIN))
        return 0;
    return flow->placed && flow_is_unanswered(said, reply) && workload_complain(key, flow->placed, 0);
}

/* Take an attempt's entries away, but for its place and what it counts: the pick gives that back when it places the
 * attempt anew (service_withdraw()). It is ended and held as any flow that is deleted (nat/flow/conntrack.h). Returns the
 * placement word, 0 when another processor was first. */
INLINE __u64 attempt_withdraw(struct nat_key *key, struct nat_flow *flow, struct placement *placement)
{
    struct nat_flow *reply = 0, *held = flow;
    __u64 state = state_read(flow), word;
    struct nat_key answer;

    if (!placement_is_of(placement, state))
        return 0;
    if (KIND_OF(state) != KIND_LOCAL) {
        reply = flow_other(key, flow, state, &answer);
        if (!reply)
            return 0;
        held = reply;
    }
    if (!state_change(held, state, FLOW_TAKEN, FLOW_TAKEN))
        return 0;
    if (!state_change(flow, state, FLOW_ENDING, FLOW_ENDING | FLOW_ENDED)) {
        __sync_fetch_and_and(&held->state, ~FLOW_TAKEN);
        return 0;
    }
    word = __sync_lock_test_and_set(&placement->placed, 0);
    placement->placed_at = bpf_ktime_get_ns(); /* the place is a new flow's, which is only being made */
    nat_flows_v1.delete(key);
    if (reply)
        nat_flows_v1.delete(&answer);
    return word;
}

#endif
