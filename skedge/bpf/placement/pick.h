/* The balancing rule: choose the workload with the smallest path_cost + open / capacity and count it, in one
 * critical section. core/placement/rule.py says the same in Python; tests hold the two equal. */
#ifndef SKEDGE_PLACEMENT_PICK_H
#define SKEDGE_PLACEMENT_PICK_H

#include "placement/scan.h"
#include "placement/recount.h"
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

/* Give back what an attempt counts that is placed anew, and make its workload the last choice for the moment: in the
 * critical section of the new choice, so that no count is seen in between. @word 0: nothing. No branch, as the scan
 * follows. Returns the slot, and in @suspended what it was before. */
static __always_inline struct slot *service_withdraw(struct service *service, struct recount *recount, __u64 word,
                                                     __u32 *suspended)
{
    __u64 hit, same, found, index;
    struct slot *slot;

    *(volatile __u64 *)&service->winner = word & (MAX_WORKLOADS - 1);
    index = *(volatile __u64 *)&service->winner & (MAX_WORKLOADS - 1);
    slot = &service->slots[index];
    same = slot_is_of(slot, word) & word >> 63;
    found = recount_has_found(recount, word) & same;
    hit = (0 - slot->mine) >> 63 & same;
    OPAQUE(hit);
    slot->mine -= hit;
    slot->nat -= hit & word >> 31;
    recount->mine[index] += found - hit;
    recount->nat[index] += (found & word >> 31) - (hit & word >> 31);
    service->underflow += (hit ^ 1) & word >> 63;
    *suspended = slot->suspended;
    slot->suspended |= hit;
    return slot;
}

/* Choose a workload of service `id` for a socket (or packet: `asker`) that needs the flags placement->need, and count it.
 * They are taken from memory, not from where the caller found them: or the verifier would walk the scan once for each way
 * to them. So is placement->affinity, a placement word of that service (see listener_choose_service()): its workload is
 * chosen while it may be. `ports`: source ports towards one endpoint, 0 where not known; of
 * a packet those towards one of another site in the upper half.
 * `from`: the placement word of that service that a packet's attempt gives up, 0 for none.
 * Returns the placement word (PLACED_*), with receipt and target in `placement`, or 0 with placement->reason set. */
static __always_inline __u64 workload_pick(__u32 id, __u64 ports, int asker, __u64 from, struct placement *placement)
{
    struct service *service = services_v1.lookup(&id);
    struct recount *recount = recounts_v1.lookup(&id);
    struct demand demand = {
        .need = *(volatile __u32 *)&placement->need,
        .limit = ((ports & 0xffffffff) - 1) & (~0ull >> 2), /* 0, not known, becomes a number that nothing reaches */
        .far = (ports >> 32) - (ports & 0xffffffff),
        .preserves_src = asker == FOR_PACKET ? *(volatile __u32 *)&placement->preserves_src & 1 : 0,
    };
    __u64 affinity = *(volatile __u64 *)&placement->affinity;
    struct logged_pick *entry = 0;
    struct scan scan;
    struct slot *slot, *left = 0;
    struct news *news;
    __u32 zero = 0, suspended = 0;
    __u64 word = 0;
    int six;

    placement->reason = REASON_NO_WORKLOAD;
    if (!service || !recount)
        return 0;
#if PICK_LOG_ENTRIES > 1
    entry = pick_log_next(asker == FOR_SOCKET ? ports : 0, id, demand.need, affinity);
    if (!entry)
        return 0;
#endif
    bpf_spin_lock(&service->lock);
    if (asker == FOR_PACKET)
        left = service_withdraw(service, recount, from, &suspended);
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
        word = recount_mark(recount, word);
        if (asker == FOR_PACKET) {
            word |= placement_flags(slot->flags, demand.preserves_src);
            slot->nat += word >> 31 & 1;
        }
    }
    if (asker == FOR_PACKET)
        left->suspended = suspended;
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
    else if (scan.seen >> SLOT_OUT_SHIFT & ENTRY_DRAINED_BIT)
        placement->reason = REASON_ENTRY_DRAINED;
    return word;
}

#endif
