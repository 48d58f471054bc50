/* The pick as a packet program, so that a test can ask it without a socket (BPF_PROG_TEST_RUN).
 * Packet bytes from 14: service id, needed flags, prefer IPv6 (0, 1), the placement word of affinity, then room for the
 * answer: the placement word and the struct placement. Never attached anywhere. */
#include <uapi/linux/bpf.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/pick.h"

struct question {
    __u32 service;
    __u32 need;
    __u32 prefer6;
    __u32 spare;
    __u64 affinity;
};

int skedge_pick_test(struct __sk_buff *skb)
{
    struct placement placement = {};
    struct question question;
    struct config *config;
    __u32 zero = 0;
    __u64 word;

    config = config_v1.lookup(&zero);
    if (!config || bpf_skb_load_bytes(skb, 14, &question, sizeof(question)))
        return 2;
    placement.need = question.need;
    placement.prefer6 = question.prefer6;
    placement.affinity = question.affinity;
    word = workload_pick(question.service, config->port_limit, FOR_SOCKET, 0, &placement);
    bpf_skb_store_bytes(skb, 38, &word, sizeof(word), 0);
    bpf_skb_store_bytes(skb, 46, &placement, sizeof(placement), 0);
    return word ? 0 : 1;
}
