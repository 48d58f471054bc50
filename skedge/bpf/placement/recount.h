/* Recounting: is what a service counts stored anywhere? It is exact while connections come and go.
 *
 * Each placement word has the number of the last recount that has seen it. A recount of a service
 * 1. begins, under its lock: the next round, and what each slot counts is what is to be found. What is placed from then on
 *    has the new round at once, and is no matter of it;
 * 2. walks all placements: each with another round gets this one, by an exchange, and is found;
 * 3. takes what is given back without having been found for found, too, by the round in the word that was taken away: of walk
 *    and release only one gets the word as it was;
 * 4. is over: what is still to be found was counted and lies nowhere, and nothing that happened meanwhile changes that.
 * Between the steps the controller waits until the programs that ran before are through (an RCU grace period): a word that
 * one of them has in hand lies nowhere. What is walked first is what words move from (flows, storage of the older layout).
 *
 * So `mine` is slot.mine less the placements that were found or came later. Whatever changes one of them changes it. */
#ifndef SKEDGE_PLACEMENT_RECOUNT_H
#define SKEDGE_PLACEMENT_RECOUNT_H

#define WORD_ROUND(word) ((word) >> PLACED_ROUND_SHIFT & 0xff)

/* 1 where the recount has found this placement, or it is younger; else 0. */
static __always_inline __u64 recount_has_found(const struct recount *recount, __u64 word)
{
    __u64 differs = (recount->round & 0xff) ^ WORD_ROUND(word);

    OPAQUE(differs);
    return (differs - 1) >> 63;
}

/* The word as one that is found. */
static __always_inline __u64 recount_mark(const struct recount *recount, __u64 word)
{
    return (word & ~PLACED_ROUND) | (__u64)(recount->round & 0xff) << PLACED_ROUND_SHIFT;
}

/* 1 where the slot still belongs to the workload of this word, else 0. */
static __always_inline __u64 slot_is_of(const struct slot *slot, __u64 word)
{
    __u64 differs = (slot->generation ^ word >> PLACED_GENERATION_SHIFT) & GENERATION_MASK;

    OPAQUE(differs);
    return (differs - 1) >> 63;
}

#endif
