/* What every iterator gets, as the kernel has it. */
#ifndef SKEDGE_COMMON_ITERATORS_H
#define SKEDGE_COMMON_ITERATORS_H

struct bpf_iter_meta;
struct seq_file;
struct iter_meta {
    struct seq_file *seq;
};

#endif
