import type { ISandbox, ISnapshot } from './wire';

/**
 * How one row of a history is drawn. Lanes count from 0 at the left.
 */
export interface ILanes {
  /** The lane of the row's own dot. */
  readonly lane: number;
  /** Lanes that pass the row without touching it. */
  readonly through: readonly number[];
  /** Lanes that come from above and end in the dot. */
  readonly from: readonly number[];
  /** Whether the dot's lane goes on below. */
  readonly down: boolean;
}

/**
 * One row of a history, the newest first.
 *
 * - `head`: where a sandbox is now;
 * - `snapshot`;
 * - `fold`: a run of snapshots that came by themselves, its members below it where it is open.
 */
export type HistoryRow = ILanes & { readonly key: string } & (
    | { readonly kind: 'head'; readonly sandbox: ISandbox }
    | {
        readonly kind: 'snapshot';
        readonly snapshot: ISnapshot;
        /** Whether it is a member of an open fold. */
        readonly folded: boolean;
      }
    | {
        readonly kind: 'fold';
        readonly members: readonly ISnapshot[];
        readonly open: boolean;
      }
  );

type Content =
  | { readonly kind: 'head'; readonly sandbox: ISandbox }
  | {
      readonly kind: 'snapshot';
      readonly snapshot: ISnapshot;
      readonly folded: boolean;
    }
  | {
      readonly kind: 'fold';
      readonly members: readonly ISnapshot[];
      readonly open: boolean;
    };

interface INode {
  readonly key: string;
  readonly parent: string;
  readonly time: number;
  readonly content: Content;
}

/**
 * The sandboxes that share a history with one: those it was forked from, and all their forks.
 *
 * @returns their ids, that of the one itself first.
 */
export function family(
  sandboxes: ReadonlyMap<string, ISandbox>,
  id: string
): string[] {
  const found = new Set([id]);
  let before = 0;
  while (found.size > before) {
    before = found.size;
    for (const { id: each, origin } of sandboxes.values()) {
      if (origin !== '' && (found.has(each) || found.has(origin))) {
        // Also one that is gone: its forks still are each other's siblings.
        found.add(origin).add(each);
      }
    }
  }
  return [...found].filter(each => sandboxes.has(each));
}

/**
 * Lay out the history of some sandboxes as a tree.
 *
 * @param snapshots of all of them.
 * @param sandboxes where they are now; the first one is at the top, in the first lane.
 * @param open keys of the folds that are open.
 * @param fold whether to fold snapshots that came by themselves at all.
 */
export function layOut(
  snapshots: readonly ISnapshot[],
  sandboxes: readonly ISandbox[],
  open: ReadonlySet<string>,
  fold = true
): HistoryRow[] {
  const groups = fold ? folds(snapshots, sandboxes) : [];
  return draw(sort(nodes(snapshots, sandboxes, groups, open)));
}

/**
 * Runs of at least two snapshots that nobody asked for, that no sandbox is at and from which nothing
 * branches off; each from the newest to the oldest.
 */
function folds(
  snapshots: readonly ISnapshot[],
  sandboxes: readonly ISandbox[]
): ISnapshot[][] {
  const at = new Set(sandboxes.map(({ snapshot }) => snapshot));
  const children = new Map<string, number>();
  for (const { parent } of snapshots) {
    children.set(parent, (children.get(parent) ?? 0) + 1);
  }
  const plain = new Map<string, ISnapshot>();
  for (const each of snapshots) {
    const alone = (children.get(each.id) ?? 0) <= 1 && !at.has(each.id);
    if (each.cause !== 'asked' && each.note === '' && alone) {
      plain.set(each.id, each);
    }
  }
  const inside = new Set([...plain.values()].map(({ parent }) => parent));
  const runs: ISnapshot[][] = [];
  for (const first of plain.values()) {
    if (inside.has(first.id)) {
      continue;
    }
    const run: ISnapshot[] = [];
    let each: ISnapshot | undefined = first;
    while (each) {
      run.push(each);
      each = plain.get(each.parent);
    }
    if (run.length > 1) {
      runs.push(run);
    }
  }
  return runs;
}

function nodes(
  snapshots: readonly ISnapshot[],
  sandboxes: readonly ISandbox[],
  groups: readonly ISnapshot[][],
  open: ReadonlySet<string>
): INode[] {
  const result: INode[] = [];
  const hidden = new Set<string>();
  const members = new Set<string>();
  // What a child of the first snapshot of a fold hangs on instead.
  const instead = new Map<string, string>();
  for (const run of groups) {
    const first = run[0];
    const last = run[run.length - 1];
    // Named after the oldest: younger ones come and go.
    const key = `fold-${last.id}`;
    const isOpen = open.has(key);
    instead.set(first.id, key);
    run.forEach(({ id }) => (isOpen ? members : hidden).add(id));
    result.push({
      key,
      parent: isOpen ? first.id : last.parent,
      time: first.created,
      content: { kind: 'fold', members: run, open: isOpen }
    });
  }
  const created = new Map(snapshots.map(each => [each.id, each.created]));
  sandboxes.forEach((sandbox, index) => {
    const since = Math.max(sandbox.created, created.get(sandbox.snapshot) ?? 0);
    result.push({
      key: `head-${sandbox.id}`,
      parent: sandbox.snapshot,
      time: index === 0 ? Infinity : since,
      content: { kind: 'head', sandbox }
    });
  });
  for (const snapshot of snapshots) {
    if (!hidden.has(snapshot.id)) {
      result.push({
        key: snapshot.id,
        parent: snapshot.parent,
        time: snapshot.created,
        content: {
          kind: 'snapshot',
          snapshot,
          folded: members.has(snapshot.id)
        }
      });
    }
  }
  return result.map(node =>
    node.content.kind === 'fold' && node.content.open
      ? node
      : { ...node, parent: instead.get(node.parent) ?? node.parent }
  );
}

/**
 * The newest first, but never one above what came of it: clocks of hosts are put back, too.
 */
function sort(all: readonly INode[]): INode[] {
  const known = new Map(all.map(node => [node.key, node]));
  const waiting = new Map<string, number>();
  for (const { parent } of all) {
    waiting.set(parent, (waiting.get(parent) ?? 0) + 1);
  }
  const ready = all.filter(({ key }) => !waiting.get(key));
  const sorted: INode[] = [];
  while (ready.length > 0) {
    let newest = 0;
    for (let i = 1; i < ready.length; i++) {
      if (ready[i].time > ready[newest].time) {
        newest = i;
      }
    }
    const [node] = ready.splice(newest, 1);
    sorted.push(node);
    const left = (waiting.get(node.parent) ?? 0) - 1;
    waiting.set(node.parent, left);
    const parent = known.get(node.parent);
    if (parent && left === 0) {
      ready.push(parent);
    }
  }
  return sorted;
}

function draw(sorted: readonly INode[]): HistoryRow[] {
  const keys = new Set(sorted.map(({ key }) => key));
  // For each lane, the node that it leads to; null for a free one.
  const lanes: (string | null)[] = [];
  return sorted.map(({ key, parent, content }) => {
    const from: number[] = [];
    const through: number[] = [];
    lanes.forEach((leads, lane) => {
      if (leads === key) {
        from.push(lane);
      } else if (leads !== null) {
        through.push(lane);
      }
    });
    let lane = from.length > 0 ? from[0] : lanes.indexOf(null);
    if (lane < 0) {
      lane = lanes.length;
    }
    from.forEach(each => {
      lanes[each] = null;
    });
    const down = keys.has(parent);
    lanes[lane] = down ? parent : null;
    return { ...content, key, lane, through, from, down };
  });
}
