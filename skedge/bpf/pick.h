/* The balancing rule: choose the workload with the smallest path_cost + open / capacity and count it, in one
 * critical section. core/balance.py says the same in Python; tests hold the two equal. */
#ifndef SKEDGE_PICK_H
#define SKEDGE_PICK_H

/* One side of a comparison, all values below 2^63. number / capacity is the perceived cost. */
struct side {
    __u64 number;
    __u64 capacity;
    __u64 cost;
    __u64 last;
    __u64 slot;
};

/* The two best of a scan, and what the scan saw on its way. */
struct scan {
    struct side best;
    struct side second;
    __u64 seen;  /* all flags that any slot had */
    __u64 full;  /* nonzero: a slot was left out for want of source ports */
};

/* Return all ones if a comes before b, else 0: by perceived cost, then path cost, then least recently chosen. Each
 * step borrows from the next one, so there is no branch: the verifier walks one path through all slots. */
static __always_inline __u64 before(const struct side *a, const struct side *b)
{
    __u64 last = (a->last - b->last) >> 63;
    __u64 cost = (a->cost - b->cost - last) >> 63;
    __u64 first = (a->number * b->capacity - b->number * a->capacity - cost) >> 63;

    return 0 - first;
}

/* Exchange a and b where mask is all ones. */
static __always_inline void exchange(struct side *a, struct side *b, __u64 mask)
{
    __u64 t;

    OPAQUE(mask);
    t = (a->number ^ b->number) & mask, a->number ^= t, b->number ^= t;
    t = (a->capacity ^ b->capacity) & mask, a->capacity ^= t, b->capacity ^= t;
    t = (a->cost ^ b->cost) & mask, a->cost ^= t, b->cost ^= t;
    t = (a->last ^ b->last) & mask, a->last ^= t, b->last ^= t;
    t = (a->slot ^ b->slot) & mask, a->slot ^= t, b->slot ^= t;
}

/* Weigh one slot for a socket that needs the flags `need`; `limit` connections to one endpoint are the last that
 * still find a source port. */
static __always_inline void weigh(const struct slot *slot, __u64 need, __u64 limit, __u64 number, struct scan *scan,
                                  struct side *side)
{
    __u64 missing = need & ~(__u64)slot->flags, full;

    OPAQUE(missing);
    missing = (0 - missing) >> 63;
    OPAQUE(missing);
    full = ((limit - slot->mine) >> 63) & (missing ^ 1);
    OPAQUE(full);
    side->cost = slot->path_cost + ((__u64)slot->suspended << SUSPENDED_SHIFT) + ((missing | full) << OUT_SHIFT);
    side->capacity = slot->capacity;
    side->number = side->cost * side->capacity + slot->mine + slot->others;
    side->last = slot->last;
    side->slot = number;
    scan->seen |= slot->flags;
    scan->full |= full;
}

static __always_inline void nobody(struct side *side)
{
    side->number = side->cost = COST_NOBODY;
    side->capacity = 1;
    side->last = ~0ull >> 2;
    side->slot = 0;
}

/* Find the two best of the first `count` slots; count is a constant, so the loop has a fixed length. The slot's number
 * has a zero from memory in it: newer verifiers walk two ways at "known number & (0 or all ones)". */
static __always_inline void scan_slots(const struct service *service, __u64 count, __u64 need, __u64 limit,
                                       struct scan *scan)
{
    __u64 zero = *(volatile __u64 *)&service->zero;

    nobody(&scan->best);
    nobody(&scan->second);
    scan->seen = scan->full = 0;
#pragma clang loop unroll(disable)
    for (__u64 i = 0; i < count; i++) {
        struct side side;

        weigh(&service->slots[i], need, limit, i + zero, scan, &side);
        exchange(&scan->best, &side, before(&side, &scan->best));
        exchange(&scan->second, &side, before(&side, &scan->second));
    }
}

/* Return the slot of a side. The number goes through the map value: the verifier would otherwise follow it back
 * through the whole scan, take every value there for precise, and walk the scan again for each way that leads to it. */
static __always_inline struct slot *slot_of(struct service *service, const struct side *side)
{
    *(volatile __u64 *)&service->winner = side->slot;
    return &service->slots[*(volatile __u64 *)&service->winner & (MAX_WORKLOADS - 1)];
}

static __always_inline void keep_weighed(const struct slot *slot, const struct side *side, struct weighed *weighed)
{
    weighed->slot = side->slot;
    weighed->path_cost = slot->path_cost;
    weighed->capacity = side->cost < COST_OUT ? slot->capacity : 0;
    weighed->open = slot->mine + slot->others;
}

#if PICK_LOG_ENTRIES > 1
/* Copy what the pick is decided on; the entry is ours alone, its position was taken before. */
static __always_inline void log_pick(const struct service *service, const struct scan *scan, struct logged_pick *entry)
{
    entry->version = service->version;
    entry->choice = service->choices;
    entry->winner = scan->best.cost < COST_OUT ? scan->best.slot : MAX_WORKLOADS;
    entry->runner = scan->second.cost < COST_OUT ? scan->second.slot : MAX_WORKLOADS;
#pragma unroll
    for (int i = 0; i < CLASS_SMALL; i++) {
        const struct slot *slot = &service->slots[i];
        struct logged_slot *to = &entry->slots[i];

        to->path_cost = slot->path_cost;
        to->capacity = slot->capacity;
        to->others = slot->others;
        to->flags = slot->flags;
        to->mine = slot->mine;
        to->last = slot->last;
        to->suspended = slot->suspended;
        to->generation = slot->generation;
    }
}

/* Take the next entry of the pick log. */
static __always_inline struct logged_pick *next_logged(struct config *config, __u32 id, __u32 need)
{
    __u32 index = 0;
    struct news *news = news_v1.lookup(&index);
    struct logged_pick *entry;
    __u64 position;

    if (!news)
        return 0;
    position = __sync_fetch_and_add(&news->log_position, 1);
    index = position & (PICK_LOG_ENTRIES - 1);
    entry = pick_log_v1.lookup(&index);
    if (entry) {
        entry->sequence = position + 1;
        entry->limit = config->port_limit;
        entry->service = id;
        entry->need = need;
    }
    return entry;
}
#endif

/* The choice itself, called with the lock held.
 * Returns: the chosen slot, counted, or 0 when nobody may be chosen. */
static __always_inline struct slot *choose_and_count(struct service *service, struct scan *scan, __u64 need,
                                                     __u64 limit, struct logged_pick *entry,
                                                     struct placement *placement)
{
    __u64 epoch = *(volatile __u64 *)&service->epoch;
    struct slot *slot;

    if (service->size <= CLASS_SMALL)
        scan_slots(service, CLASS_SMALL, need, limit, scan);
    else if (service->size <= CLASS_MEDIUM)
        scan_slots(service, CLASS_MEDIUM, need, limit, scan);
    else
        scan_slots(service, MAX_WORKLOADS, need, limit, scan);
#if PICK_LOG_ENTRIES > 1
    log_pick(service, scan, entry);
#endif
    if (scan->best.cost >= COST_OUT)
        return 0;
    keep_weighed(slot_of(service, &scan->second), &scan->second, &placement->runner);
    slot = slot_of(service, &scan->best);
    keep_weighed(slot, &scan->best, &placement->winner);
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

/* Choose a workload of service `id` for a socket that needs the flags `need`, and count it.
 * @target where the connection goes, as ::ffff:a.b.c.d for a target of IPv4
 * Returns: the placement word (see PLACED_*), with the receipt and the target in `placement`, or 0 with
 * placement->reason NO_WORKLOAD, NO_FAMILY or NO_PORT. */
static __always_inline __u64 pick(__u32 id, struct config *config, __u32 need, int prefer6, struct placement *placement)
{
    struct service *service = services_v1.lookup(&id);
    __u64 limit = (config->port_limit - 1) & (~0ull >> 2); /* 0, not known, becomes a number that nothing reaches */
    struct logged_pick *entry = 0;
    struct scan scan;
    struct slot *slot;
    __u64 word = 0;
    int six;

    placement->reason = REASON_NO_WORKLOAD;
    if (!service)
        return 0;
#if PICK_LOG_ENTRIES > 1
    entry = next_logged(config, id, need);
    if (!entry)
        return 0;
#endif
    bpf_spin_lock(&service->lock);
    slot = choose_and_count(service, &scan, need, limit, entry, placement);
    if (slot) {
        six = (slot->flags & SLOT_T6) && (prefer6 || !(slot->flags & SLOT_T4));
        placement->target[0] = six ? slot->addr6[0] : 0;
        placement->target[1] = six ? slot->addr6[1] : 0;
        placement->target[2] = six ? slot->addr6[2] : MAPPED_PREFIX;
        placement->target[3] = six ? slot->addr6[3] : slot->addr4;
        placement->target_port = six ? slot->port6 : slot->port4;
        word = PLACED_VALID | (__u64)(slot->generation & GENERATION_MASK) << PLACED_GENERATION_SHIFT |
               id << PLACED_SERVICE_SHIFT | (scan.best.slot & (MAX_WORKLOADS - 1));
    }
    bpf_spin_unlock(&service->lock);
    if (scan.full)
        drops_v1.increment(REASON_NO_PORT);
    if (slot)
        placement->reason = scan.best.cost >= COST_SUSPENDED ? REASON_SUSPENDED : REASON_NONE;
    else if (scan.full)
        placement->reason = REASON_NO_PORT;
    else if (scan.seen & SLOT_IN)
        placement->reason = REASON_NO_FAMILY;
    return word;
}

#endif
