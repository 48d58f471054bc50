/* Place a flow by the one pick, then hand it to its workload. The pick stands alone at the beginning, and takes all that
 * it needs from a map: the verifier walks it once for each way that leads to it. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>
#include <bcc/helpers.h>
#include "consts.h"
#include "reasons.h"
#include "structs.h"
#include "maps.h"
#include "pick.h"
#include "placement.h"
#include "link_reasons.h"
#include "link_maps.h"
#include "link_packet.h"
#include "lan_maps.h"
#include "lan_packet.h"
#include "lan_flow.h"
#include "lan_forward.h"
#include "lan_new.h"
#include "lan_local.h"

/* Go on to the workload of a placement. Returns the verdict. */
INLINE int begin(struct __sk_buff *skb, const struct config *site, struct lan_packet *p, struct making *m)
{
    int verdict;

    own_overlay(site, p->v6, &m->flow);
    m->kind = KIND_REMOTE;
    if (m->flow.placed & PLACED_LAN) {
        m->kind = KIND_LAN;
    } else if (!(m->flow.placed & PLACED_NAT)) {
        m->kind = KIND_LOOP;
        if (p->key.protocol == IPPROTO_TCP) {
            verdict = deliver(skb, p, &m->flow);
            if (verdict != NOT_ASSIGNABLE)
                return verdict;
        }
    }
    nat_programs_v1.call(skb, NAT_BEGIN);
    return TC_ACT_SHOT;
}

/* Place the flow. Returns the placement word, 0 with the reason in *reason. */
INLINE __u64 place(const struct nat_config *config, struct making *m, __u32 *reason)
{
    struct placement *placement = nat_placements_v1.lookup(&m->key);
    __u64 word;

    if (!placement)
        return 0;
    word = pick(m->service, port_room(config), FOR_PACKET, placement);
    *reason = placement->reason;
    if (!word)
        return 0;
    put(placement, word);
    m->flow.placed = word;
    copy_address(m->flow.to, placement->target);
    m->flow.to_port = placement->target_port;
    return word;
}

int lan_place(struct __sk_buff *skb)
{
    __u32 zero = 0, reason = REASON_TABLE_FULL;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct config *site = config_v1.lookup(&zero);
    struct making *making = made_before();
    struct lan_packet p;
    __u64 word;

    if (!config || !site || !making)
        return TC_ACT_SHOT;
    word = place(config, making, &reason);
    if (lan_parse(skb, &p, skb->cb[CB_LINK] & 15))
        return TC_ACT_SHOT;
    if (word)
        return begin(skb, site, &p, making);
    nat_placements_v1.delete(&p.key);
    return refuse(skb, &p, reason);
}
