/**
 * The commands of the project; other extensions may run them, too.
 *
 * Each takes `{sandbox?: string, snapshot?: string}`, ids, and acts on the notebook in front where those
 * are missing. With `{menu: true}` it acts on what the context menu was opened for.
 */
export const CommandIDs = {
  show: 'vsandbox:show',
  snapshot: 'vsandbox:snapshot',
  rollback: 'vsandbox:rollback',
  fork: 'vsandbox:fork',
  diff: 'vsandbox:diff',
  tryUpgrade: 'vsandbox:try-upgrade',
  promote: 'vsandbox:promote',
  hibernate: 'vsandbox:hibernate',
  wake: 'vsandbox:wake',
  start: 'vsandbox:start',
  stop: 'vsandbox:stop',
  reset: 'vsandbox:reset',
  prune: 'vsandbox:prune',
  rename: 'vsandbox:rename',
  remove: 'vsandbox:delete',
  open: 'vsandbox:open-notebook',
  renameSnapshot: 'vsandbox:rename-snapshot',
  annotateSnapshot: 'vsandbox:annotate-snapshot',
  removeSnapshot: 'vsandbox:delete-snapshot',
  build: 'vsandbox:build-runtime',
  cancelBuild: 'vsandbox:cancel-build',
  addRuntime: 'vsandbox:add-runtime'
} as const;
