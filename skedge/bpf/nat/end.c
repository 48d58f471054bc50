/* End one flow because the controller asks for it (dataplane/ending/flows.py): run by BPF_PROG_TEST_RUN, never attached.
 * From byte 14 on the packet is the key of the forward direction, and the state word of the flow that is meant: another
 * generation has taken its place. Returns 0, or 1 where there is no such flow (any more). */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <bcc/helpers.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/store.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "nat/flow/types.h"
#include "nat/flow/conntrack.h"

int lan_end(struct __sk_buff *skb)
{
    struct nat_flow *flow;
    struct nat_key key;
    __u64 meant, state;

    if (bpf_skb_load_bytes(skb, ETH_LENGTH, &key, sizeof(key)) ||
        bpf_skb_load_bytes(skb, ETH_LENGTH + sizeof(key), &meant, sizeof(meant)))
        return 1;
    flow = nat_flows_v1.lookup(&key);
    if (!flow)
        return 1;
    state = state_read(flow);
    if ((state & FLOW_REPLY) || generations_differ(state, meant))
        return 1;
    return flow_delete(&key, flow, state, 0) ? 1 : 0;
}
