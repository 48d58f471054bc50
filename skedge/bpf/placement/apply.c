/* What the controller does to what programs count in, under the lock: take a service's staged table over, begin a recount.
 * Run by BPF_PROG_TEST_RUN; the packet's bytes 14..17 are the service id. Returns 0, or 1 when there is none. */
#include <uapi/linux/bpf.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/recount.h"

/* All ones where the flag is set. */
static __always_inline __u64 apply_mask(__u32 apply, __u32 flag)
{
    __u64 mask = 0 - (__u64)((apply & flag) != 0);

    OPAQUE(mask);
    return mask;
}

#define APPLY(field, value, mask) (field) ^= ((field) ^ (value)) & (mask)

static __always_inline void slot_apply(struct slot *to, const struct staged_slot *from)
{
    __u64 control = apply_mask(from->apply, APPLY_CONTROL), reset = apply_mask(from->apply, APPLY_RESET);
    __u64 never = (to->last - FIRST_CHOICE) >> 63, more;

    APPLY(to->path_cost, from->path_cost, control);
    APPLY(to->capacity, from->capacity, control);
    APPLY(to->flags, from->flags, control);
    APPLY(to->addr4, from->addr4, control);
    APPLY(to->port4, from->port4, control);
    APPLY(to->port6, from->port6, control);
    APPLY(to->addr6[0], from->addr6[0], control);
    APPLY(to->addr6[1], from->addr6[1], control);
    APPLY(to->addr6[2], from->addr6[2], control);
    APPLY(to->addr6[3], from->addr6[3], control);
    APPLY(to->generation, from->generation, control);
    APPLY(to->others, from->others, apply_mask(from->apply, APPLY_OTHERS));
    APPLY(to->chosen, 0, reset);
    APPLY(to->refused, 0, reset);
    APPLY(to->suspended, 0, reset | apply_mask(from->apply, APPLY_RESUME));
    APPLY(to->last, (__u64)from->rank, reset | (control & (0 - never)));
    to->mine += (__s64)from->delta & apply_mask(from->apply, APPLY_DELTA);
    to->nat += from->rank & apply_mask(from->apply, APPLY_NAT);
    more = (to->mine - to->nat) >> 63; /* more NAT ports than connections: what was corrected held ports too */
    OPAQUE(more);
    APPLY(to->nat, to->mine, 0 - more);
}

int skedge_apply(struct __sk_buff *skb)
{
    struct service *service;
    struct staged *staged;
    __u32 id, zero = 0;

    if (bpf_skb_load_bytes(skb, 14, &id, sizeof(id)))
        return 1;
    staged = staged_v1.lookup(&zero);
    service = services_v1.lookup(&id);
    if (!staged || !service)
        return 1;
    bpf_spin_lock(&service->lock);
    /* With a branch before it the verifier walks the loop twice. */
#pragma clang loop unroll(disable)
    for (__u64 i = 0; i < MAX_WORKLOADS; i++)
        slot_apply(&service->slots[i], &staged->slots[i]);
    if (staged->version) {
        service->version = staged->version;
        service->size = staged->size;
    }
    service->epoch++;
    bpf_spin_unlock(&service->lock);
    return 0;
}

/* Begin a recount of a service. Asked and answered as the above. */
int skedge_recount(struct __sk_buff *skb)
{
    struct service *service;
    struct recount *recount;
    __u32 id;

    if (bpf_skb_load_bytes(skb, 14, &id, sizeof(id)))
        return 1;
    service = services_v1.lookup(&id);
    recount = recounts_v1.lookup(&id);
    if (!service || !recount)
        return 1;
    bpf_spin_lock(&service->lock);
    recount->round++;
    recount->round = (recount->round + (recount->round >> 8)) & 0xff; /* 1 after 255: 0 is of versions that know no rounds */
#pragma clang loop unroll(disable)
    for (__u64 i = 0; i < MAX_WORKLOADS; i++) {
        recount->generation[i] = service->slots[i].generation;
        recount->mine[i] = service->slots[i].mine;
        recount->nat[i] = service->slots[i].nat;
    }
    bpf_spin_unlock(&service->lock);
    return 0;
}
