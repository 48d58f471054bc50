/* What every iterator gets, as the kernel has it. */
#ifndef SKEDGE_ITERATE_H
#define SKEDGE_ITERATE_H

struct bpf_iter_meta;
struct seq_file;
struct iter_meta {
    struct seq_file *seq;
};

#endif
