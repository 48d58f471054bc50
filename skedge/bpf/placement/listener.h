/* Before the pick: which of a listener's services a new connection goes to, and which workload its client had before.
 * For a connection that is placed: aim(), pick(), and remember() where it was placed. */
#ifndef SKEDGE_DISPATCH_H
#define SKEDGE_DISPATCH_H

/* Return the service whose turn it is. */
static __always_inline __u32 next_service(struct listener *listener)
{
    __u32 shares = listener->shares;
    __u64 turn;

    if (!shares)
        return listener->service;
    turn = __sync_fetch_and_add(&listener->position, 1) % shares;
    return listener->schedule[turn & (SCHEDULE_SIZE - 1)];
}

static __always_inline int has_service(const struct listener *listener, __u32 id)
{
    if (!listener->shares)
        return id == listener->service;
    return listener->members[id >> 6 & (MEMBER_WORDS - 1)] >> (id & 63) & 1;
}

/* Whether the workload of a placement word may be chosen. Read without the lock, to find the service; pick() judges
 * again under it. */
static __always_inline int may_stay(__u64 word, __u32 need)
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
static __always_inline __u64 held_by(const struct listener *listener, struct affinity_key *client, __u32 need)
{
    struct affinity *held;
    __u64 word;

    client->service = listener->service | (listener->shares ? AFFINITY_SHARED : 0);
    held = affinities_v1.lookup(client);
    if (!held || bpf_ktime_get_ns() - held->seen > listener->affinity_s * NANOSECONDS)
        return 0;
    word = held->word;
    if (!has_service(listener, (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1)) || !may_stay(word, need))
        return 0;
    return word;
}

/* Return the service that a new connection is placed in, with the workload to keep in placement->sticky; the caller
 * has set placement->need. @client: its address, or zero; read only where the listener has affinity. */
static __always_inline __u32 aim(struct listener *listener, struct affinity_key *client, struct placement *placement)
{
    __u64 word = listener->affinity_s ? held_by(listener, client, placement->need) : 0;

    placement->sticky = word;
    return word ? (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1) : next_service(listener);
}

/* Let the client keep where it was placed. Always a new element, also for the same workload: the old one may have
 * become another client's meanwhile. */
static __always_inline void remember_at(struct affinity_key *client, __u64 word)
{
    struct affinity now = {.word = word};

    now.seen = bpf_ktime_get_ns();
    affinities_v1.update(client, &now);
}

static __always_inline void remember(const struct listener *listener, struct affinity_key *client, __u64 word)
{
    if (listener->affinity_s)
        remember_at(client, word);
}

#endif
