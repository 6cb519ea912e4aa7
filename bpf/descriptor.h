/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a descriptor of the current task to its socket: task->files->fdt->fd[fd]->private_data->sk. */

static __always_inline const void *read_pointer(const void *from)
{
  return (const void *)read_u64(from);
}

/* NULL where the descriptor is no socket: another thread may have closed and reused it already. */
static __always_inline const void *socket_of_descriptor(s64 fd)
{
  const void *files = read_pointer((void *)bpf_get_current_task() + TASK_FILES);
  const void *table = read_pointer(files + FILES_FDT);
  const void *file = read_pointer(read_pointer(table + FDT_FD) + fd * sizeof(void *));
  const void *socket = read_pointer(file + FILE_PRIVATE_DATA);

  if (!file || read_pointer(socket + SOCKET_FILE) != file)
    return NULL;
  return read_pointer(socket + SOCKET_SK);
}
