/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Refuses to execute and to map what is not of a container's image, whether or not anybody is
 * there to answer: LSM programs (bpf-lsm, kernel 6.1 and later), pinned so that they outlive who
 * loaded them. What a file is, is read from overlayfs itself: an inode without an upper dentry is
 * the image's. Content cannot be compared here: who has compared it leaves the change time for
 * which that held in `trusted`.
 *
 * Structures name only the fields read; CO-RE finds them in the running kernel.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define EPERM 1
#define PROT_EXEC 4
#define VM_EXEC 4
#define MNT_READONLY 0x40
#define SB_RDONLY 1
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
/* Bit 31 of a change time's nanoseconds says that somebody has read it (6.13 and later). */
#define NANOSECONDS 0x7fffffff
#define LONGEST_PATH 512
#define DEEPEST 8
#define MOST_CONTAINERS 16384

#define CORE __attribute__((preserve_access_index))

struct timespec64 { long long tv_sec; long tv_nsec; } CORE;
struct super_block { __u32 s_dev; unsigned long s_flags; unsigned long s_magic; } CORE;
struct inode { struct super_block *i_sb; } CORE;
struct inode___before_6_6 { struct timespec64 i_ctime; } CORE;
struct inode___before_6_11 { struct timespec64 __i_ctime; } CORE;
struct inode___since_6_11 { long long i_ctime_sec; __u32 i_ctime_nsec; } CORE;
struct qstr { const unsigned char *name; } CORE;
struct dentry { struct inode *d_inode; struct qstr d_name; } CORE;
struct vfsmount { int mnt_flags; } CORE;
struct path { struct vfsmount *mnt; struct dentry *dentry; } CORE;
struct file { struct path f_path; struct inode *f_inode; } CORE;
struct linux_binprm { struct file *file; } CORE;
struct vm_area_struct { unsigned long vm_flags; struct file *vm_file; } CORE;
struct ovl_inode { struct inode vfs_inode; struct dentry *__upperdentry; } CORE;
struct ns_common { unsigned int inum; } CORE;
struct mnt_namespace { struct ns_common ns; } CORE;
struct pid_namespace { struct ns_common ns; } CORE;
struct nsproxy { struct mnt_namespace *mnt_ns; } CORE;
struct upid { int nr; struct pid_namespace *ns; } CORE;
struct pid { unsigned int level; struct upid numbers[1]; } CORE;
struct task_struct { struct nsproxy *nsproxy; struct pid *thread_pid; } CORE;

/* A container whose root is an overlay, by the device of its super block. */
struct root { __u32 id; };
/* A container by one of its namespaces. The number of a namespace is given away again; that of
 * the root's device is forgotten as soon as the root is gone. */
struct scope { __u32 id; __u32 device; };
struct stamp { __s64 seconds; __u32 nanoseconds; __u32 unused; };

enum how { EXECUTED = 1, MAPPED = 2, MADE_EXECUTABLE = 3 };
enum why { NOT_THE_IMAGES = 1, ELSEWHERE = 2 };

struct event {
	__u32 id;
	__u32 pid;
	__u32 how;
	__u32 why;
	__u32 length;
	char path[LONGEST_PATH];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_CONTAINERS);
	__type(key, __u32);
	__type(value, struct root);
} roots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MOST_CONTAINERS);
	__type(key, __u32);
	__type(value, struct scope);
} scopes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stamp);
} trusted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

/* Refusals that nobody was told of: the ring buffer was full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

static __always_inline struct stamp changed(struct inode *inode)
{
	struct stamp stamp = {};
	struct inode___since_6_11 *newest = (void *)inode;
	struct inode___before_6_11 *newer = (void *)inode;
	struct inode___before_6_6 *older = (void *)inode;

	if (bpf_core_field_exists(newest->i_ctime_sec)) {
		stamp.seconds = BPF_CORE_READ(newest, i_ctime_sec);
		stamp.nanoseconds = BPF_CORE_READ(newest, i_ctime_nsec) & NANOSECONDS;
	} else if (bpf_core_field_exists(newer->__i_ctime)) {
		stamp.seconds = BPF_CORE_READ(newer, __i_ctime.tv_sec);
		stamp.nanoseconds = BPF_CORE_READ(newer, __i_ctime.tv_nsec);
	} else {
		stamp.seconds = BPF_CORE_READ(older, i_ctime.tv_sec);
		stamp.nanoseconds = BPF_CORE_READ(older, i_ctime.tv_nsec);
	}
	return stamp;
}

static __always_inline __u32 container_of_namespace(__u32 number)
{
	struct scope *scope = bpf_map_lookup_elem(&scopes, &number);
	__u32 device;

	if (!scope)
		return 0;
	device = scope->device;
	return bpf_map_lookup_elem(&roots, &device) ? scope->id : 0;
}

/* The container that the current process is in, 0 for none: by its mount namespace, and because it
 * may make itself another, by every process namespace around it. */
static __always_inline __u32 container_of_process(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	__u32 id = container_of_namespace(BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum));
	struct upid upid;

	for (__u32 at = 1; at <= DEEPEST && !id; at++) {
		if (at > level)
			break;
		if (bpf_core_read(&upid, sizeof(upid), &pid->numbers[at]))
			break;
		id = container_of_namespace(BPF_CORE_READ(upid.ns, ns.inum));
	}
	return id;
}

/* Judges a file by its inode, as its container sees it; `id` becomes the container that must not
 * run it. `settled` is the inode whose content was compared. */
static __always_inline __u32 judge(struct inode *inode, struct vfsmount *mount, __u32 *id,
				   struct inode **settled)
{
	struct super_block *super = BPF_CORE_READ(inode, i_sb);
	__u32 device = BPF_CORE_READ(super, s_dev);
	struct root *root = bpf_map_lookup_elem(&roots, &device);
	struct ovl_inode *overlay;
	struct dentry *upper;

	*settled = inode;
	if (root) {
		if (BPF_CORE_READ(super, s_magic) != OVERLAYFS_SUPER_MAGIC)
			return 0;
		overlay = (void *)inode - bpf_core_field_offset(struct ovl_inode, vfs_inode);
		upper = BPF_CORE_READ(overlay, __upperdentry);
		if (!upper)
			return 0;
		*settled = BPF_CORE_READ(upper, d_inode);
		*id = root->id;
		return NOT_THE_IMAGES;
	}
	*id = container_of_process();
	if (!*id)
		return 0;
	/* What is mounted read-only is the operator's. */
	if (BPF_CORE_READ(mount, mnt_flags) & MNT_READONLY || BPF_CORE_READ(super, s_flags) & SB_RDONLY)
		return 0;
	return ELSEWHERE;
}

static __always_inline struct event *begin(__u32 id, __u32 how, __u32 why)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	__u32 first = 0;
	__u64 *number;

	if (!event) {
		number = bpf_map_lookup_elem(&lost, &first);
		if (number)
			__sync_fetch_and_add(number, 1);
		return 0;
	}
	event->id = id;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->how = how;
	event->why = why;
	event->length = 0;
	return event;
}

static __always_inline int refuse(void)
{
	int refused = -EPERM;

	/* Without it, clang returns through a register the verifier knows nothing of. */
	barrier_var(refused);
	return refused;
}

/* A file that is executed, or mapped to be. */
static __always_inline int check(struct file *file, __u32 how)
{
	struct inode *inode = file->f_inode, *settled;
	struct stamp now, *stamp;
	struct event *event;
	__u32 id = 0, why;
	long length;

	why = judge(inode, BPF_CORE_READ(file, f_path.mnt), &id, &settled);
	if (!why)
		return 0;
	stamp = bpf_inode_storage_get(&trusted, inode, 0, 0);
	if (stamp) {
		now = changed(settled);
		if (stamp->seconds == now.seconds && stamp->nanoseconds == now.nanoseconds)
			return 0;
	}
	event = begin(id, how, why);
	if (event) {
		length = bpf_d_path(&file->f_path, event->path, sizeof(event->path));
		event->length = length > 0 ? length : 0;
		bpf_ringbuf_submit(event, 0);
	}
	return refuse();
}

SEC("lsm/bprm_check_security")
int BPF_PROG(guard_exec, struct linux_binprm *bprm)
{
	return check(bprm->file, EXECUTED);
}

SEC("lsm/mmap_file")
int BPF_PROG(guard_map, struct file *file, unsigned long asked, unsigned long protection)
{
	if (!file || !(protection & PROT_EXEC))
		return 0;
	return check(file, MAPPED);
}

/* Newer kernels show the file below the overlay here. Overlayfs has its lower layers mounted
 * read-only, so that the image's files pass; no content was compared with, and what was not mapped
 * to be executed is then not made executable later. */
SEC("lsm/file_mprotect")
int BPF_PROG(guard_protect, struct vm_area_struct *area, unsigned long asked,
	     unsigned long protection)
{
	struct file *file = BPF_CORE_READ(area, vm_file);
	struct inode *settled;
	const unsigned char *name;
	struct dentry *dentry;
	struct event *event;
	__u32 id = 0, why;
	long length;

	if (!file || !(protection & PROT_EXEC) || BPF_CORE_READ(area, vm_flags) & VM_EXEC)
		return 0;
	dentry = BPF_CORE_READ(file, f_path.dentry);
	why = judge(BPF_CORE_READ(dentry, d_inode), BPF_CORE_READ(file, f_path.mnt), &id, &settled);
	if (!why)
		return 0;
	event = begin(id, MADE_EXECUTABLE, why);
	if (event) {
		name = BPF_CORE_READ(dentry, d_name.name);
		length = bpf_probe_read_kernel_str(event->path, sizeof(event->path), name);
		event->length = length > 0 ? length : 0;
		bpf_ringbuf_submit(event, 0);
	}
	return refuse();
}

/* Its number will be another file system's. */
SEC("lsm/sb_delete")
int BPF_PROG(guard_forget, struct super_block *super)
{
	__u32 device = BPF_CORE_READ(super, s_dev);

	bpf_map_delete_elem(&roots, &device);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
