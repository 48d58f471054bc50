/* The pick log: each pick with everything that it is decided on, for tests and replays (see struct logged_pick). */
#ifndef SKEDGE_PLACEMENT_PICK_LOG_H
#define SKEDGE_PLACEMENT_PICK_LOG_H

#include "placement/scan.h"

#if PICK_LOG_ENTRIES > 1
/* Copy what the pick is decided on; the entry is ours alone, its position was taken before. */
static __always_inline void pick_log_store(const struct service *service, const struct scan *scan,
                                           struct logged_pick *entry)
{
    entry->version = service->version;
    entry->choice = service->choices;
    entry->winner = COST_OF(scan->best) < COST_OUT ? SLOT_OF(scan->best) : MAX_WORKLOADS;
    entry->runner = COST_OF(scan->second) < COST_OUT ? SLOT_OF(scan->second) : MAX_WORKLOADS;
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
static __always_inline struct logged_pick *pick_log_next(__u64 limit, __u32 id, __u32 need, __u64 affinity)
{
    __u32 index = 0;
    struct news *news = news_v1.lookup(&index);
    struct logged_pick *entry;
    __u64 position;

    if (!news)
        return 0;
    position = __sync_fetch_and_add(&news->log_position, 1);
    index = position & (PICK_LOG_ENTRIES - 1);
    entry = pick_log_v2.lookup(&index);
    if (entry) {
        entry->sequence = position + 1;
        entry->limit = limit;
        entry->service = id;
        entry->need = need;
        entry->affinity = affinity;
    }
    return entry;
}
#endif

#endif
