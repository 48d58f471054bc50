/* Place a flow by the one pick. It stands alone, and takes all that it needs from maps: the verifier walks it once for
 * each way that leads to it, and once more for each way that leads away. lan_begin goes on with what it finds. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>
#include <bcc/helpers.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/pick.h"
#include "placement/store.h"
#include "placement/listener.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "nat/flow/types.h"
#include "nat/flow/scratch.h"

int lan_place(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct scratch *m = scratch_lookup();
    struct placement *placement;
    __u64 word, turn;

    if (!config || !m)
        return TC_ACT_SHOT;
    placement = nat_placements_v1.lookup(&m->key);
    if (!placement)
        return TC_ACT_SHOT;
    word = workload_pick(m->service, nat_port_limits(config, placement->prefer6), FOR_PACKET,
                         m->flow.placed, placement);
    if (word) {
        turn = placement->seen;
        placement_store(placement, word);
        placement->seen = turn;
    }
    if (word && m->has_affinity)
        affinity_update(&m->client, word);
    m->flow.placed = word;
    nat_programs_v1.call(skb, NAT_BEGIN);
    return TC_ACT_SHOT;
}
