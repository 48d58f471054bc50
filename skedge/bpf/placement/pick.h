/* The balancing rule: choose the workload with the smallest path_cost + open / capacity and count it, in one
 * critical section. core/placement/rule.py says the same in Python; tests hold the two equal. */
#ifndef SKEDGE_PLACEMENT_PICK_H
#define SKEDGE_PLACEMENT_PICK_H

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
 * one); with `preserves_src` (1) it needs none at a slot with SLOT_PRESERVES_SRC. */
struct demand {
    __u64 need;
    __u64 limit;
    __u64 preserves_src;
};

static __always_inline void slot_weigh(const struct slot *slot, const struct demand *demand, int asker, __u64 number,
                                       struct scan *scan, struct side *side)
{
    __u64 missing = demand->need & ~(__u64)slot->flags, capacity = slot->capacity, full, cost;

    OPAQUE(missing);
    missing = (0 - missing) >> 63;
    OPAQUE(missing);
    full = ((demand->limit - (asker == FOR_PACKET ? slot->nat : slot->mine)) >> 63) & (missing ^ 1);
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

#include "placement/pick_log.h"

/* The choice itself, called with the lock held. Returns the chosen slot, counted, or 0 when nobody may be chosen. */
static __always_inline struct slot *service_choose(struct service *service, struct scan *scan,
                                                   const struct demand *demand, int asker, __u64 affinity,
                                                   struct logged_pick *entry, struct placement *placement)
{
    __u64 epoch = *(volatile __u64 *)&service->epoch;
    struct slot *slot;

    if (service->size <= CLASS_SMALL)
        service_scan(service, CLASS_SMALL, demand, asker, scan);
    else if (service->size <= CLASS_MEDIUM)
        service_scan(service, CLASS_MEDIUM, demand, asker, scan);
    else
        service_scan(service, MAX_WORKLOADS, demand, asker, scan);
    if (affinity)
        scan_apply_affinity(service, scan, demand, asker, affinity);
#if PICK_LOG_ENTRIES > 1
    pick_log_store(service, scan, entry);
#endif
    if (COST_OF(scan->best) >= COST_OUT)
        return 0;
    weighed_store(service_slot(service, &scan->second), &scan->second, &placement->runner);
    slot = service_slot(service, &scan->best);
    weighed_store(slot, &scan->best, &placement->winner);
    placement->version = service->version;
    placement->choice = service->choices;
    slot->last = FIRST_CHOICE + service->choices++;
    slot->mine++;
    slot->chosen++;
    if (*(volatile __u64 *)&service->epoch != epoch)
        service->stale++;
    service->epoch++;
    return slot;
}

/* What a slot's flags add to a packet's placement word: what is not on this host is reached by NAT, or with the client's
 * own address. */
static __always_inline __u64 placement_flags(__u32 flags, __u64 preserves_src)
{
    if (preserves_src && (flags & SLOT_PRESERVES_SRC))
        return PLACED_PRESERVES_SRC;
    if (!(flags & SLOT_OWN_SITE))
        return PLACED_NAT;
    return flags & SLOT_OFF_HOST ? PLACED_NAT | PLACED_LAN : 0;
}

/* Choose a workload of service `id` for a socket (or packet: `asker`) that needs the flags placement->need, and count it.
 * They are taken from memory, not from where the caller found them: or the verifier would walk the scan once for each way
 * to them. So is placement->affinity, a placement word of that service (see listener_choose_service()): its workload is
 * chosen while it may be. `ports`: source ports towards one endpoint, 0 where not known.
 * Returns the placement word (PLACED_*), with receipt and target in `placement`, or 0 with placement->reason set. */
static __always_inline __u64 workload_pick(__u32 id, __u64 ports, int asker, struct placement *placement)
{
    struct service *service = services_v1.lookup(&id);
    struct demand demand = {
        .need = *(volatile __u32 *)&placement->need,
        .limit = (ports - 1) & (~0ull >> 2), /* 0, not known, becomes a number that nothing reaches */
        .preserves_src = asker == FOR_PACKET ? *(volatile __u32 *)&placement->preserves_src & 1 : 0,
    };
    __u64 affinity = *(volatile __u64 *)&placement->affinity;
    struct logged_pick *entry = 0;
    struct scan scan;
    struct slot *slot;
    struct news *news;
    __u32 zero = 0;
    __u64 word = 0;
    int six;

    placement->reason = REASON_NO_WORKLOAD;
    if (!service)
        return 0;
#if PICK_LOG_ENTRIES > 1
    entry = pick_log_next(asker == FOR_SOCKET ? ports : 0, id, demand.need, affinity);
    if (!entry)
        return 0;
#endif
    bpf_spin_lock(&service->lock);
    slot = service_choose(service, &scan, &demand, asker, affinity, entry, placement);
    if (slot) {
        six = (slot->flags & SLOT_T6) && (placement->prefer6 || !(slot->flags & SLOT_T4));
        placement->target[0] = six ? slot->addr6[0] : 0;
        placement->target[1] = six ? slot->addr6[1] : 0;
        placement->target[2] = six ? slot->addr6[2] : MAPPED_PREFIX;
        placement->target[3] = six ? slot->addr6[3] : slot->addr4;
        placement->target_port = six ? slot->port6 : slot->port4;
        word = PLACED_VALID | (__u64)(slot->generation & GENERATION_MASK) << PLACED_GENERATION_SHIFT |
               id << PLACED_SERVICE_SHIFT | SLOT_OF(scan.best);
        if (asker == FOR_PACKET) {
            word |= placement_flags(slot->flags, demand.preserves_src);
            slot->nat += word >> 31 & 1;
        }
    }
    bpf_spin_unlock(&service->lock);
    news = news_v1.lookup(&zero);
    if (news)
        __sync_fetch_and_add(&news->changes, 1);
    if (scan.full)
        drops_v1.increment(REASON_NO_PORT);
    if (slot)
        placement->reason = COST_OF(scan.best) >= COST_SUSPENDED ? REASON_SUSPENDED
                            : scan.by_affinity                   ? REASON_AFFINITY
                                                               : REASON_NONE;
    else if (scan.full)
        placement->reason = REASON_NO_PORT;
    else if (scan.seen & SLOT_IN)
        placement->reason = REASON_NO_FAMILY;
    return word;
}

#endif
