/* What one machine, or a flood of made-up senders, can take of the flow table: so many new flows a second for each
 * source, and a room for all flows that are half open, where a new one takes the place of the oldest. Whoever completes
 * a handshake before the room was filled once more is not touched by it. */
#ifndef SKEDGE_NAT_ADMISSION_LIMITS_H
#define SKEDGE_NAT_ADMISSION_LIMITS_H

#define SOURCES 65536
#define SOURCE_RATE 10000 /* new flows a second where the controller says nothing; as many at once */
#define FEWEST 8          /* half-open flows, however few ports there are */
#define HALF_OPEN 16384   /* of each protocol; in a second a flood of 20,000 goes through it once */

struct source {
    __u32 address[4];
};

/* A flow that began half open. */
struct half_open {
    struct nat_key key;
    __u32 turn; /* as its placement has it: a later flow of the same ports is another one */
};

/* source -> when it may open the next flow, were it to open them evenly (ns since boot) */
BPF_TABLE_PINNED("lru_hash", struct source, __u64, nat_openers_v1, SOURCES, PIN_DIR "/nat_openers_v1");
/* turn -> the flow that began then; UDP's behind TCP's */
BPF_TABLE_PINNED("array", __u32, struct half_open, nat_half_open_v1, HALF_OPEN * 2, PIN_DIR "/nat_half_open_v1");
/* protocol (0 TCP, 1 UDP) -> turns taken */
BPF_TABLE_PINNED("array", __u32, __u64, nat_turns_v1, 2, PIN_DIR "/nat_turns_v1");

/* Whether a source may do once more what costs it @each ns. Not exact when it sends by two processors at once: that is
 * generous. */
INLINE int source_may(struct source *source, __u64 each)
{
    __u64 now = bpf_ktime_get_ns(), first;
    __u64 *next = nat_openers_v1.lookup(source);

    if (!next) {
        first = now + each;
        nat_openers_v1.update(source, &first);
        return 1;
    }
    if (*next > now + NANOSECONDS)
        return 0;
    *next = (*next > now ? *next : now) + each;
    return 1;
}

/* Whether the sender may open one more flow. */
INLINE int source_may_open(const struct nat_config *config, const __u32 *from)
{
    struct source source;

    address_copy(source.address, from);
    return source_may(&source, NANOSECONDS / (config->source_rate ? config->source_rate : SOURCE_RATE));
}

/* How many flows of a protocol may be half open: no more than an eighth of the table, and than hold half of the NAT ports
 * towards one machine of the LAN. */
INLINE __u32 half_open_room(const struct nat_config *config)
{
    __u32 ports = (__u32)nat_port_limits(config, 0) / 2, room = config->half_open;

    if (!room || room > HALF_OPEN)
        room = HALF_OPEN;
    if (room > NAT_HALF_OPEN_MAX)
        room = NAT_HALF_OPEN_MAX;
    if (room > ports)
        room = ports > FEWEST ? ports : FEWEST;
    return room;
}

/* Whether a flow never came to more than half: the client of TCP has not answered the answer (it may have reset it), the
 * server of UDP has not answered. */
INLINE int flow_is_half_open(const struct nat_key *key, const struct nat_flow *flow, __u64 state)
{
    struct nat_flow *reply;
    struct nat_key answer;

    if (key->protocol == IPPROTO_TCP)
        return !(state & (FLOW_ACK | FLOW_REPLY));
    reply = flow_other(key, flow, state, &answer);
    return reply && !(state_read(reply) & FLOW_ACK);
}

/* Give a new flow its place in the room; a half-open flow that had it ends. @was is scratch memory. */
INLINE void half_open_enter(const struct nat_config *config, const struct nat_key *key, struct placement *placement,
                            struct nat_key *was)
{
    __u32 second = key->protocol == IPPROTO_UDP, at;
    __u64 number;
    __u64 *turns = nat_turns_v1.lookup(&second);
    struct nat_flow *flow;
    struct half_open *place;
    __u64 state, turn, *crowded;
    __u32 then;

    if (!turns)
        return;
    turn = __sync_fetch_and_add(turns, 1);
    placement->seen = turn;
    number = turn % half_open_room(config) + (second ? HALF_OPEN : 0);
    BLUR(config, number); /* else the verifier walks on once for each size of the room */
    at = number;
    place = nat_half_open_v1.lookup(&at);
    if (!place)
        return;
    *was = place->key;
    then = place->turn;
    place->key = *key;
    place->turn = turn;
    flow = nat_flows_v1.lookup(was);
    state = flow ? state_read(flow) : 0;
    if (!flow || !flow_is_half_open(was, flow, state))
        return;
    placement = nat_placements_v1.lookup(was);
    if (!placement || (__u32)placement->seen != then)
        return;
    if (flow_delete(was, flow, state, 0))
        return;
    at = 0;
    crowded = nat_crowded_v1.lookup(&at);
    if (crowded)
        *crowded = bpf_ktime_get_ns();
    if (!(state & FLOW_ENDED))
        drops_v1.increment(REASON_HALF_OPEN);
}

#endif
