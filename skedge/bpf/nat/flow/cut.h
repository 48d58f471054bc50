/* Cutting up a datagram of a flow that is too big for the way ahead: packets of flows leave past the host's stack, which
 * would do it. Each time the front leaves, while a copy comes in once more by the same device, marked with how much of its
 * front is gone, and is cut again if need be. So nothing is kept anywhere. */
#ifndef SKEDGE_NAT_FLOW_CUT_H
#define SKEDGE_NAT_FLOW_CUT_H

#include "nat/flow/checksum.h"
#include "common/fragments.h"

#define CUT_MARK 0x73c70000u /* skb->mark of such a copy; below it the bytes that are gone */
#define CUT_MARK_MASK 0xffff0000u
#define CUT_LARGEST 4088     /* more cannot be taken out of a packet at once */
#define CUT_SMALLEST 552     /* no way ahead is that narrow */
#define SUM_PART 512 /* no sum is made of more at once */
#define SUM_TAKEN 64
#define SUM_PARTS (65536 / SUM_PART)

INLINE int packet_is_cut(const struct __sk_buff *skb)
{
    return (skb->mark & CUT_MARK_MASK) == CUT_MARK;
}

/* Write what ``f`` says into the packet's headers. An IPv4 fragment may be cut up further. */
INLINE int fragment_store(struct __sk_buff *skb, struct lan_packet *p, struct fragment *f)
{
    __u16 was[4], length, word;
    __u8 head[FRAGMENT_HEADER] = {IPPROTO_UDP, 0, f->at >> 8, f->at | (f->more ? 1 : 0)}, next = NEXT_FRAGMENT;

    p->whole = 0;
    p->length = (p->v6 ? IP6_LENGTH + FRAGMENT_HEADER : IP4_LENGTH) + f->size;
    if (p->v6) {
        p->next = NEXT_FRAGMENT;
        p->l4 = f->l4 = p->l3 + IP6_LENGTH + FRAGMENT_HEADER;
        length = bpf_htons(FRAGMENT_HEADER + f->size);
        __builtin_memcpy(head + 4, &f->id, 4);
        if (bpf_skb_store_bytes(skb, p->l3 + 4, &length, 2, BPF_F_RECOMPUTE_CSUM) ||
            bpf_skb_store_bytes(skb, p->l3 + 6, &next, 1, BPF_F_RECOMPUTE_CSUM))
            return -1;
        return bpf_skb_store_bytes(skb, p->l3 + IP6_LENGTH, head, sizeof(head), BPF_F_RECOMPUTE_CSUM);
    }
    length = bpf_htons(p->length);
    word = bpf_htons(f->at / 8 | (f->more ? 0x2000 : 0));
    if (bpf_skb_load_bytes(skb, p->l3, was, sizeof(was)) ||
        bpf_l3_csum_replace(skb, p->l3 + 10, was[1], length, 2) || bpf_l3_csum_replace(skb, p->l3 + 10, was[3], word, 2))
        return -1;
    return bpf_skb_store_bytes(skb, p->l3 + 2, &length, 2, 0) || bpf_skb_store_bytes(skb, p->l3 + 6, &word, 2, 0);
}

/* A copy that came in once more: take the front off that has left. Behind the IPv6 header there must be room for the
 * fragment header: one that is there, or the last of the bytes that are gone. */
INLINE int cut_front(struct __sk_buff *skb, struct lan_packet *p, struct fragment *f, int whole)
{
    __u32 gone = skb->mark & ~CUT_MARK_MASK & 0xff8;

    skb->mark = 0;
    if (gone < CUT_SMALLEST || gone >= f->size)
        return -1;
    if (p->v6 && whole && bpf_skb_load_bytes(skb, p->l4 + 4, &f->id, sizeof(f->id)))
        return -1;
    if (bpf_skb_adjust_room(skb, -(int)(p->v6 && whole ? gone - FRAGMENT_HEADER : gone), BPF_ADJ_ROOM_NET, 0))
        return -1;
    f->at += gone;
    f->size -= gone;
    return fragment_store(skb, p, f);
}

/* The sender, a socket of this host, forbids routers to cut; it gave the packet no identification for that case. */
INLINE int packet_identify4(struct __sk_buff *skb, const struct lan_packet *p, struct fragment *f)
{
    __u16 was[4], id = bpf_get_prandom_u32(), none = 0;

    f->id = bpf_ntohs(id);
    if (bpf_skb_load_bytes(skb, p->l3, was, sizeof(was)) || bpf_l3_csum_replace(skb, p->l3 + 10, was[2], id, 2) ||
        bpf_l3_csum_replace(skb, p->l3 + 10, was[3], none, 2))
        return -1;
    return bpf_skb_store_bytes(skb, p->l3 + 4, &id, 2, 0) || bpf_skb_store_bytes(skb, p->l3 + 6, &none, 2, 0);
}

/* Send a copy round. Of a whole IPv6 packet it brings the identification along, where the front's checksum was. */
INLINE int cut_send_round(struct __sk_buff *skb, const struct lan_packet *p, struct fragment *f, int whole, __u32 front)
{
    __u32 was = 0, mark = skb->mark, failed;

    if (p->v6 && whole) {
        f->id = bpf_get_prandom_u32();
        if (bpf_skb_load_bytes(skb, p->l4 + 4, &was, sizeof(was)) ||
            bpf_skb_store_bytes(skb, p->l4 + 4, &f->id, sizeof(f->id), BPF_F_RECOMPUTE_CSUM))
            return -1;
    }
    skb->mark = CUT_MARK | front;
    failed = bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS) != 0;
    skb->mark = mark;
    if (p->v6 && whole && bpf_skb_store_bytes(skb, p->l4 + 4, &was, sizeof(was), BPF_F_RECOMPUTE_CSUM))
        return -1;
    return failed ? -1 : 0;
}

/* A part of a datagram: the larger, the shorter is the loop over them, which the verifier walks to its end. */
struct datagram_part {
    __u8 byte[SUM_PART];
};
BPF_PERCPU_ARRAY(nat_part, struct datagram_part, 1);

/* The sum of a whole datagram with what its checksum field holds. The last part has 1 to SUM_PART bytes. */
INLINE __u32 datagram_sum(struct __sk_buff *skb, __u32 at, __u32 size)
{
    __u32 sum = 0, parts = (size - 1) / SUM_PART, rest = ((size - 1) & (SUM_PART - 1)) + 1, zero = 0;
    struct datagram_part *part = nat_part.lookup(&zero);

    if (!part)
        return 0;
    /* The number of parts is hidden from the compiler: LLVM 19 counts down from it otherwise, for ever to the verifier. */
#pragma clang loop unroll(disable)
    for (__u32 i = 0; i < SUM_PARTS; i++) {
        OPAQUE(parts);
        if (i >= parts || bpf_skb_load_bytes(skb, at, part, sizeof(*part)))
            break;
        sum = (__u32)bpf_csum_diff(0, 0, (void *)part, sizeof(*part), sum);
        at += SUM_PART;
    }
    __builtin_memset(part, 0, sizeof(*part));
    OPAQUE(rest);
    if (rest > SUM_PART || rest < 1 || bpf_skb_load_bytes(skb, at, part, rest))
        return sum;
    return (__u32)bpf_csum_diff(0, 0, (void *)part, sizeof(*part), sum);
}

/* Put the datagram's checksum into its front, and take from the device what was left to it: a checksum of the front alone
 * would be made. It forgets that when the bytes that it is to begin at are taken out; so they are, and put back. */
INLINE int checksum_finish(struct __sk_buff *skb, const struct lan_packet *p, __u32 sum)
{
    __u32 at = p->l3 + (p->v6 ? IP6_LENGTH : IP4_LENGTH);
    __u8 saved[SUM_TAKEN];
    __u16 check = checksum_fold(sum);

    if (bpf_skb_load_bytes(skb, at, saved, sizeof(saved)) ||
        bpf_skb_adjust_room(skb, -(int)sizeof(saved), BPF_ADJ_ROOM_NET, 0) ||
        bpf_skb_adjust_room(skb, sizeof(saved), BPF_ADJ_ROOM_NET, 0))
        return -1;
    if (!check)
        check = 0xffff;
    __builtin_memcpy(saved + 6, &check, 2);
    return bpf_skb_store_bytes(skb, at, saved, sizeof(saved), 0);
}

/* Cut a packet down to its front, which fits @mtu; the rest goes round. */
INLINE int packet_cut(struct __sk_buff *skb, struct lan_packet *p, struct fragment *f, __u32 mtu, int whole)
{
    __u32 head = p->v6 ? IP6_LENGTH + FRAGMENT_HEADER : IP4_LENGTH, front = (mtu - head) & ~7u, sum = 0;
    int partial;

    if (front > CUT_LARGEST)
        front = CUT_LARGEST;
    if (skb->gso_size || mtu < CUT_SMALLEST + 64 || f->size <= front)
        return -1;
    if (!p->v6 && p->whole && packet_identify4(skb, p, f))
        return -1;
    partial = whole && checksum_is_partial(skb, p->l4 + 6);
    if (cut_send_round(skb, p, f, whole, front))
        return -1;
    if (partial)
        sum = datagram_sum(skb, p->l4, f->size);
    f->size = front;
    f->more = 1;
    if (bpf_skb_change_tail(skb, p->l4 + front, 0) || (partial && checksum_finish(skb, p, sum)))
        return -1;
    if (p->v6 && whole && bpf_skb_adjust_room(skb, FRAGMENT_HEADER, BPF_ADJ_ROOM_NET, 0))
        return -1;
    return fragment_store(skb, p, f);
}

#endif
