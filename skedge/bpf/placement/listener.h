/* Before the pick: which of a listener's services a new connection goes to, and which workload its client had before.
 * A connection is placed by listener_choose_service(), workload_pick() and, where that succeeds, affinity_store(). */
#ifndef SKEDGE_PLACEMENT_LISTENER_H
#define SKEDGE_PLACEMENT_LISTENER_H

/* Return the service whose turn it is. */
static __always_inline __u32 listener_next_service(struct listener *listener)
{
    __u32 shares = listener->shares;
    __u64 turn;

    if (!shares)
        return listener->service;
    turn = __sync_fetch_and_add(&listener->position, 1) % shares;
    return listener->schedule[turn & (SCHEDULE_SIZE - 1)];
}

static __always_inline int listener_has_service(const struct listener *listener, __u32 id)
{
    if (!listener->shares)
        return id == listener->service;
    return listener->members[id >> 6 & (MEMBER_WORDS - 1)] >> (id & 63) & 1;
}

/* Whether the workload of a placement word may be chosen. Read without the lock, to find the service;
 * workload_pick() judges again under it. */
static __always_inline int affinity_is_usable(__u64 word, __u32 need)
{
    __u32 id = (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1);
    struct service *service = services_v1.lookup(&id);
    struct slot *slot;

    if (!service)
        return 0;
    slot = &service->slots[word & (MAX_WORKLOADS - 1)];
    return (slot->generation & GENERATION_MASK) == ((word >> PLACED_GENERATION_SHIFT) & GENERATION_MASK) &&
           !(need & ~slot->flags) && !slot->suspended;
}

/* Return the placement word that the client had before, 0 where it is free to go anywhere. */
static __always_inline __u64 affinity_lookup(const struct listener *listener, struct affinity_key *client, __u32 need)
{
    struct affinity *held;
    __u64 word;

    client->service = listener->service | (listener->shares ? AFFINITY_SHARED : 0);
    held = affinities_v1.lookup(client);
    if (!held || bpf_ktime_get_ns() - held->seen > listener->affinity_s * NANOSECONDS)
        return 0;
    word = held->word;
    if (!listener_has_service(listener, (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1)) ||
        !affinity_is_usable(word, need))
        return 0;
    return word;
}

/* Return the service that a new connection is placed in, with the client's workload in placement->affinity; the caller
 * has set placement->need. @client: its address, or zero; read only where the listener has affinity. */
static __always_inline __u32 listener_choose_service(struct listener *listener, struct affinity_key *client,
                                                     struct placement *placement)
{
    __u64 word = listener->affinity_s ? affinity_lookup(listener, client, placement->need) : 0;

    placement->affinity = word;
    return word ? (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1) : listener_next_service(listener);
}

/* Store where the client was placed. Always a new element, also for the same workload: the old one may have
 * become another client's meanwhile. */
static __always_inline void affinity_update(struct affinity_key *client, __u64 word)
{
    struct affinity now = {.word = word};

    now.seen = bpf_ktime_get_ns();
    affinities_v1.update(client, &now);
}

static __always_inline void affinity_store(const struct listener *listener, struct affinity_key *client, __u64 word)
{
    if (listener->affinity_s)
        affinity_update(client, word);
}

#endif
