/* What the fragments of both directions of a link have in common. */
#ifndef SKEDGE_LINK_FRAGMENTS_REWRITE_H
#define SKEDGE_LINK_FRAGMENTS_REWRITE_H

#include "common/fragments.h"

INLINE void fragment_key_fill(const struct packet *p, const struct fragment *f, int leaves, struct fragment_key *key)
{
	key->from = p->from;
	key->to = p->to;
	key->id = f->id;
	key->protocol = f->protocol;
	key->v6 = p->v6;
	key->leaves = leaves;
}

/* Replace one address, at offset ``at``, of a fragment that has no transport header. */
INLINE int fragment_rewrite(struct __sk_buff *skb, const struct packet *p, __u32 at, const struct address *old,
			    const struct address *new)
{
	struct address from = *old, to = *new;

	if (p->v6)
		return bpf_skb_store_bytes(skb, at, &to, 16, BPF_F_RECOMPUTE_CSUM);
	if (bpf_l3_csum_replace(skb, p->l3 + 10, 0, checksum_diff(&from, &to, 4), 0))
		return -1;
	return bpf_skb_store_bytes(skb, at, &to, 4, 0);
}

#endif
