/* The store of placements: put, find and release on sk_storage. Nothing else may know where a placement lies.
 *
 * Sockets that were open during an upgrade have theirs in storage of the older layout. While that is in use, the programs are
 * compiled with PLACEMENTS_V1: what ends or reads a placement then looks in both storages, what makes one does so in the new
 * storage alone. The loader replaces the programs that end before those that make, so no program of the version before has
 * to know the new storage. */
#ifndef SKEDGE_PLACEMENT_STORE_H
#define SKEDGE_PLACEMENT_STORE_H

#include "placement/recount.h"

_Static_assert(MAX_REASONS <= 256, "a reason does not fit into bits 8..15 of a slot's flags");

/* Give a workload's open connection back. @refused: the workload refused it or did not answer. */
static __always_inline void workload_uncount(__u64 word, int refused)
{
    __u32 id = (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1), zero = 0, index = word & (MAX_WORKLOADS - 1);
    struct service *service = services_v1.lookup(&id);
    struct recount *recount = recounts_v1.lookup(&id);
    struct news *news = news_v1.lookup(&zero);
    __u64 found, same, nat;
    struct slot *slot;

    if (!service || !news || !recount)
        return;
    bpf_spin_lock(&service->lock);
    slot = &service->slots[index];
    same = slot_is_of(slot, word);
    found = recount_has_found(recount, word);
    if (same && slot->mine) {
        nat = slot->nat ? word >> 31 & 1 : 0;
        slot->mine--;
        slot->nat -= nat;
        recount->mine[index] += found - 1;
        recount->nat[index] += (found & word >> 31) - nat;
        if (refused) {
            slot->refused++;
            slot->suspended = 1;
        }
    } else {
        service->underflow++;
        recount->mine[index] += found & same;
        recount->nat[index] += found & same & word >> 31;
    }
    service->epoch++;
    bpf_spin_unlock(&service->lock);
    __sync_fetch_and_add(&news->changes, 1);
    if (refused)
        __sync_fetch_and_add(&news->suspensions, 1);
}

/* Count an open connection whose end was taken for certain and was none. Returns the word that it is stored with, 0 where its
 * workload is gone. */
static __always_inline __u64 workload_count_again(__u64 word)
{
    __u32 id = (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1), zero = 0;
    struct service *service = services_v1.lookup(&id);
    struct recount *recount = recounts_v1.lookup(&id);
    struct news *news = news_v1.lookup(&zero);
    struct slot *slot;
    __u64 again = 0;

    if (!service || !news || !recount)
        return 0;
    bpf_spin_lock(&service->lock);
    slot = &service->slots[word & (MAX_WORKLOADS - 1)];
    if ((slot->flags & SLOT_USED) && slot_is_of(slot, word)) {
        slot->mine++;
        slot->nat += word >> 31 & 1;
        service->epoch++;
        again = recount_mark(recount, word);
    }
    bpf_spin_unlock(&service->lock);
    __sync_fetch_and_add(&news->changes, 1);
    return again;
}

/* A placement is met by the walk of a recount. */
static __always_inline void placement_find(struct placement *placement)
{
    __u64 word = *(volatile __u64 *)&placement->placed, same;
    __u32 id = (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1), index = word & (MAX_WORKLOADS - 1);
    struct service *service = services_v1.lookup(&id);
    struct recount *recount = recounts_v1.lookup(&id);

    if (!word || !service || !recount || recount_has_found(recount, word) ||
        __sync_val_compare_and_swap(&placement->placed, word, recount_mark(recount, word)) != word)
        return;
    bpf_spin_lock(&service->lock);
    same = slot_is_of(&service->slots[index], word);
    recount->mine[index] -= same;
    recount->nat[index] -= same & word >> 31;
    bpf_spin_unlock(&service->lock);
}

/* Take a placement away; whoever exchanges the word first gives the count back, all others do nothing. */
static __always_inline void placement_release(struct placement *placement, int refused)
{
    __u64 word = placement->placed ? __sync_lock_test_and_set(&placement->placed, 0) : 0;

    if (word)
        workload_uncount(word, refused);
}

/* Whether a flow stays where it is: its workload is usable, or it or this site is drained (what is open goes on). Read
 * without the lock: a change that comes a moment later moves the flow at its next datagram. */
static __always_inline int placement_goes_on(__u64 word)
{
    __u32 id = (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1);
    struct service *service = services_v1.lookup(&id);
    struct slot *slot;
    __u32 out;

    if (!word || !service)
        return 0;
    slot = &service->slots[word & (MAX_WORKLOADS - 1)];
    if ((slot->generation & GENERATION_MASK) != ((word >> PLACED_GENERATION_SHIFT) & GENERATION_MASK))
        return 0;
    out = slot->flags >> SLOT_OUT_SHIFT & 0xff;
    return (slot->flags & SLOT_IN) || out == REASON_DRAINED || out == REASON_ENTRY_DRAINED;
}

/* Return the socket's placement, 0 where it never had one: of two the one that is open. */
static __always_inline struct placement *placement_lookup(struct bpf_sock *sk)
{
    struct socket_placement *stored = placements_v2.sk_storage_get(sk, 0, 0);
#ifdef PLACEMENTS_V1
    struct placement *old;

    if (stored && stored->placement.placed)
        return &stored->placement;
    old = placements_v1.sk_storage_get(sk, 0, 0);
    if (old && (old->placed || !stored))
        return old;
#endif
    return stored ? &stored->placement : 0;
}

static __always_inline void socket_placement_clear(struct socket_placement *stored)
{
    __builtin_memset(stored->spare, 0, sizeof(stored->spare));
}

/* Return room for the socket's placement, 0 when there is no memory. */
static __always_inline struct placement *placement_create(struct bpf_sock *sk)
{
    struct socket_placement *stored = placements_v2.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

    return stored ? &stored->placement : 0;
}

/* Return room for another placement of the socket: those words that this version does not know say nothing of it. */
static __always_inline struct placement *placement_begin(struct bpf_sock *sk)
{
    struct placement *placement = placement_create(sk);

    if (placement)
        socket_placement_clear((struct socket_placement *)placement);
    return placement;
}

/* Take away whatever the socket has placed. Returns whether it was once sent to a mapped address. */
static __always_inline int socket_release(struct bpf_sock *sk)
{
    struct socket_placement *stored = placements_v2.sk_storage_get(sk, 0, 0);
    int mapped = 0;
#ifdef PLACEMENTS_V1
    struct placement *old = placements_v1.sk_storage_get(sk, 0, 0);

    if (old) {
        placement_release(old, 0);
        mapped = old->mapped != 0;
    }
#endif
    if (!stored)
        return mapped;
    placement_release(&stored->placement, 0);
    return mapped | (stored->placement.mapped != 0);
}

/* Say what becomes of the socket to a packet program of the version before, which the controller has not replaced yet. */
static __always_inline void placement_say_v1(struct bpf_sock *sk, __u32 reason)
{
#ifdef PLACEMENTS_V1
    struct placement *old = placements_v1.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

    if (old)
        old->reason = reason;
#endif
}

/* Make a counted pick the socket's placement. */
static __always_inline void placement_store(struct placement *placement, __u64 word)
{
    __u64 old;

    placement->placed_at = placement->seen = bpf_ktime_get_ns();
    old = __sync_lock_test_and_set(&placement->placed, word);
    if (old)
        workload_uncount(old, 0);
}

#endif
