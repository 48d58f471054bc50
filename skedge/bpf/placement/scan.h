/* The scan of a service's slots for the two best: the comparison, and what a connection asks of a slot. */
#ifndef SKEDGE_PLACEMENT_SCAN_H
#define SKEDGE_PLACEMENT_SCAN_H

/* One side of a comparison, all values below 2^63. number / capacity is the perceived cost. Cost, capacity and slot
 * share a word, because the machine has few registers and the scan is as long as what it moves. */
struct side {
    __u64 number;
    __u64 key; /* cost << 32 | capacity << 8 | slot */
    __u64 last;
};

#define COST_OF(side) ((side).key >> 32)
#define CAPACITY_OF(side) ((side).key >> 8 & 0xffff)
#define SLOT_OF(side) ((side).key & 0xff)

/* The two best of a scan, and what the scan saw on its way. */
struct scan {
    struct side best;
    struct side second;
    __u64 seen;        /* all flags that any slot had */
    __u64 full;        /* nonzero: a slot was left out for want of source ports */
    __u64 by_affinity; /* nonzero: the client's workload took the place of the rule's */
};

/* Return all ones if a comes before b, else 0: by perceived cost, then path cost, then least recently chosen. Each
 * step borrows from the next one, so there is no branch: the verifier walks one path through all slots. */
static __always_inline __u64 side_is_before(const struct side *a, const struct side *b)
{
    __u64 less = a->last - b->last;

    OPAQUE(less);
    less = COST_OF(*a) - COST_OF(*b) - (less >> 63);
    OPAQUE(less);
    less = a->number * CAPACITY_OF(*b) - b->number * CAPACITY_OF(*a) - (less >> 63);
    OPAQUE(less);
    return 0 - (less >> 63);
}

/* Exchange a and b where mask is all ones. */
static __always_inline void side_exchange(struct side *a, struct side *b, __u64 mask)
{
    __u64 t;

    OPAQUE(mask);
    t = (a->number ^ b->number) & mask, a->number ^= t, b->number ^= t;
    t = (a->key ^ b->key) & mask, a->key ^= t, b->key ^= t;
    t = (a->last ^ b->last) & mask, a->last ^= t, b->last ^= t;
}

/* Who asks: a socket of this host, whose source ports are the host's, or a packet, whose source ports are NAT ports. The
 * argument is a constant wherever it is given, so the scan has no branch for it. */
#define FOR_SOCKET 0
#define FOR_PACKET 1

/* What a connection asks of a slot: the flags, a source port towards it (`limit` connections are the last that find
 * one, `far` more of a packet's at a slot of another site); with `preserves_src` (1) it needs none at a slot with
 * SLOT_PRESERVES_SRC. */
struct demand {
    __u64 need;
    __u64 limit;
    __u64 far;
    __u64 preserves_src;
};

static __always_inline void slot_weigh(const struct slot *slot, const struct demand *demand, int asker, __u64 number,
                                       struct scan *scan, struct side *side)
{
    __u64 missing = demand->need & ~(__u64)slot->flags, capacity = slot->capacity, full, cost;

    OPAQUE(missing);
    missing = (0 - missing) >> 63;
    OPAQUE(missing);
    if (asker == FOR_PACKET) {
        full = demand->far & (((__u64)slot->flags >> SLOT_OWN_SITE_BIT & 1) - 1);
        full = demand->limit + full - slot->nat;
    } else {
        full = demand->limit + slot->nat - slot->mine; /* what has a NAT port takes none of the host's */
    }
    full = (full >> 63) & (missing ^ 1);
    if (asker == FOR_PACKET)
        full &= ~(demand->preserves_src & slot->flags >> SLOT_PRESERVES_SRC_BIT);
    OPAQUE(full);
    cost = slot->path_cost + ((__u64)slot->suspended << SUSPENDED_SHIFT) + ((missing | full) << OUT_SHIFT);
    side->number = cost * capacity + slot->mine + slot->others;
    side->key = cost << 32 | capacity << 8 | number;
    side->last = slot->last;
    scan->seen |= slot->flags;
    scan->full |= full;
}

static __always_inline void side_clear(struct side *side)
{
    side->number = COST_NOBODY;
    side->key = COST_NOBODY << 32 | 1 << 8;
    side->last = ~0ull >> 2;
}

/* Find the two best of the first `count` slots; count is a constant, so the loop has a fixed length. The slot's number
 * has a zero from memory in it: newer verifiers walk two ways at "known number & (0 or all ones)". */
static __always_inline void service_scan(const struct service *service, __u64 count, const struct demand *demand,
                                         int asker, struct scan *scan)
{
    __u64 zero = *(volatile __u64 *)&service->zero;

    side_clear(&scan->best);
    side_clear(&scan->second);
    scan->seen = scan->full = scan->by_affinity = 0;
#pragma clang loop unroll(disable)
    for (__u64 i = 0; i < count; i++) {
        struct side side;

        slot_weigh(&service->slots[i], demand, asker, i + zero, scan, &side);
        side_exchange(&scan->best, &side, side_is_before(&side, &scan->best));
        side_exchange(&scan->second, &side, side_is_before(&side, &scan->second));
    }
}

/* Return the slot of a side. The number goes through the map value: the verifier would otherwise follow it back
 * through the whole scan, take every value there for precise, and walk the scan again for each way that leads to it. */
static __always_inline struct slot *service_slot(struct service *service, const struct side *side)
{
    *(volatile __u64 *)&service->winner = SLOT_OF(*side);
    return &service->slots[*(volatile __u64 *)&service->winner & (MAX_WORKLOADS - 1)];
}

/* Put the workload that the client had before in the place of the rule's, which becomes the runner-up; if it is the same
 * still, and may be chosen, and is not suspended. */
static __always_inline void scan_apply_affinity(struct service *service, struct scan *scan, const struct demand *demand,
                                                int asker, __u64 affinity)
{
    __u64 number = affinity & (MAX_WORKLOADS - 1);
    struct side side;
    struct slot *slot;

    *(volatile __u64 *)&service->winner = number;
    slot = &service->slots[*(volatile __u64 *)&service->winner & (MAX_WORKLOADS - 1)];
    slot_weigh(slot, demand, asker, number, scan, &side);
    if ((slot->generation & GENERATION_MASK) != (affinity >> PLACED_GENERATION_SHIFT & GENERATION_MASK))
        return;
    if (COST_OF(side) >= COST_SUSPENDED || SLOT_OF(scan->best) == number)
        return;
    scan->second = scan->best;
    scan->best = side;
    scan->by_affinity = 1;
}

static __always_inline void weighed_store(const struct slot *slot, const struct side *side, struct weighed *weighed)
{
    weighed->slot = SLOT_OF(*side);
    weighed->path_cost = slot->path_cost;
    weighed->capacity = COST_OF(*side) < COST_OUT ? slot->capacity : 0;
    weighed->open = slot->mine + slot->others;
}

#endif
