/* The life of a flow: its two directions, the TCP state, the end. */
#ifndef SKEDGE_NAT_FLOW_CONNTRACK_H
#define SKEDGE_NAT_FLOW_CONNTRACK_H

#define TCP_FIN 0x01
#define TCP_TURNS (TCP_FIN | TCP_SYN | TCP_RST)

INLINE void address_copy(__u32 *to, const __u32 *from)
{
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
}

/* The key of the packets that answer what @flow rewrites. */
INLINE void flow_reply_key(const struct nat_flow *flow, __u32 protocol, struct nat_key *key)
{
    address_copy(key->from, flow->to);
    address_copy(key->to, flow->from);
    key->from_port = flow->to_port;
    key->to_port = flow->from_port;
    key->protocol = protocol;
}

/* Release the placement of a flow. @key is the forward direction's. */
INLINE void flow_release(struct nat_key *key, int refused)
{
    struct placement *placement = nat_placements_v1.lookup(key);

    if (placement)
        placement_release(placement, refused);
}

INLINE void flow_end(struct nat_flow *flow, struct nat_flow *other)
{
    __sync_fetch_and_or(&flow->state, FLOW_ENDED);
    if (other)
        __sync_fetch_and_or(&other->state, FLOW_ENDED);
}

/* A SYN, FIN or RST of one direction: store it, and end the flow at the first RST or the second FIN. A RST that answers
 * the SYN is a refusal, as at connect time. A client that resets before its SYN was answered does not end the flow: the
 * workload has an old connection of this port in TIME_WAIT and spoke of that one, which the reset ends; the SYN that the
 * client sends again must come by the same port. */
INLINE void flow_track(struct nat_key *key, struct nat_flow *flow, __u8 tcp_flags)
{
    __u64 said = flow->state | (tcp_flags & TCP_TURNS), other_said;
    struct nat_flow *other;
    struct nat_key answer;
    int refused;

    flow_reply_key(flow, key->protocol, &answer);
    other = nat_flows_v1.lookup(&answer);
    other_said = other ? other->state : 0;
    if ((tcp_flags & TCP_RST) && !(said & FLOW_REPLY) && other && !(other_said & FLOW_SYN))
        return;
    if ((said & FLOW_FIN) && (said & FLOW_REPLY) && !(other_said & FLOW_FIN))
        said |= FLOW_PASSIVE;
    __sync_fetch_and_or(&flow->state, said & (TCP_TURNS | FLOW_PASSIVE));
    if (!(said & FLOW_RST) && !((said & FLOW_FIN) && (other_said & FLOW_FIN)))
        return;
    if (said & FLOW_ENDED)
        return;
    flow_end(flow, other);
    refused = (said & FLOW_REPLY) && (said & FLOW_RST) && !(said & FLOW_SYN);
    flow_release(said & FLOW_REPLY ? &answer : key, refused);
}

/* Take hold of a flow by its reply entry: only the one that succeeds may delete the flow. */
INLINE int flow_claim(struct nat_flow *reply)
{
    __u64 state = reply->state;

    return !(state & FLOW_TAKEN) && __sync_val_compare_and_swap(&reply->state, state, state | FLOW_TAKEN) == state;
}

/* Delete a flow, with all of its entries. @key is the forward direction's. Returns -1 when another processor is
 * about to. */
INLINE int flow_delete(struct nat_key *key, struct nat_flow *flow, int refused)
{
    struct nat_flow *reply;
    struct nat_key answer;

    if (KIND_OF(flow->state) != KIND_LOCAL) {
        flow_reply_key(flow, key->protocol, &answer);
        reply = nat_flows_v1.lookup(&answer);
        if (reply && !flow_claim(reply))
            return -1;
        nat_flows_v1.delete(&answer);
    }
    flow_release(key, refused);
    nat_flows_v1.delete(key);
    nat_placements_v1.delete(key);
    return 0;
}

#endif
