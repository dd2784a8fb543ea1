import type { HistoryRow } from '../lineage';
import { family, layOut } from '../lineage';
import type { Cause, ISandbox, ISnapshot } from '../tokens';
import { SANDBOX, SNAPSHOT } from './fixtures';

function sandbox(id: string, snapshot: string, origin = ''): ISandbox {
  return { ...SANDBOX, id, snapshot, origin, created: 0 };
}

function chain(...specs: [string, string, Cause?][]): ISnapshot[] {
  return specs.map(([id, parent, cause = 'asked'], index) => ({
    ...SNAPSHOT,
    id,
    parent,
    cause,
    created: index
  }));
}

function draw(rows: readonly HistoryRow[]): string[] {
  return rows.map(({ key, lane, through, from, down }) =>
    [
      key,
      lane,
      `through ${through.join()}`,
      `from ${from.join()}`,
      down ? 'down' : 'end'
    ].join(' | ')
  );
}

describe('family', () => {
  it('is those it came from and all that came of those', () => {
    const all = [
      sandbox('a', ''),
      sandbox('b', '', 'a'),
      sandbox('c', '', 'b'),
      sandbox('d', '', 'a'),
      sandbox('x', ''),
      sandbox('y', '', 'gone')
    ];
    const sandboxes = new Map(all.map(each => [each.id, each]));
    expect(family(sandboxes, 'b').sort()).toEqual(['a', 'b', 'c', 'd']);
    expect(family(sandboxes, 'x')).toEqual(['x']);
  });

  it('holds siblings together whose origin is gone', () => {
    const all = [sandbox('y', '', 'gone'), sandbox('z', '', 'gone')];
    const sandboxes = new Map(all.map(each => [each.id, each]));
    expect(family(sandboxes, 'y')).toEqual(['y', 'z']);
  });
});

describe('layOut', () => {
  it('draws a straight history in one lane, the present on top', () => {
    const rows = layOut(
      chain(['a', ''], ['b', 'a']),
      [sandbox('s', 'b')],
      new Set()
    );
    expect(draw(rows)).toEqual([
      'head-s | 0 | through  | from  | down',
      'b | 0 | through  | from 0 | down',
      'a | 0 | through  | from 0 | end'
    ]);
  });

  it('branches where a sandbox was rolled back, and where one was forked', () => {
    const rows = layOut(
      chain(['a', ''], ['b', 'a'], ['c', 'a']),
      [sandbox('s', 'c'), sandbox('f', 'b', 's')],
      new Set()
    );
    expect(draw(rows)).toEqual([
      'head-s | 0 | through  | from  | down',
      'c | 0 | through  | from 0 | down',
      'head-f | 1 | through 0 | from  | down',
      'b | 1 | through 0 | from 1 | down',
      'a | 0 | through  | from 0,1 | end'
    ]);
  });

  it('ends at a parent that is not there any more', () => {
    const rows = layOut(chain(['b', 'gone']), [sandbox('s', 'b')], new Set());
    expect(draw(rows)[1]).toBe('b | 0 | through  | from 0 | end');
  });

  it('puts what came of a snapshot above it, whatever the clock said', () => {
    const [a, b] = chain(['a', ''], ['b', 'a']);
    const rows = layOut([{ ...a, created: 99 }, b], [], new Set());
    expect(rows.map(({ key }) => key)).toEqual(['b', 'a']);
  });

  it('gives a lane that has ended to the next branch', () => {
    const rows = layOut(
      chain(['x', ''], ['a', ''], ['y', ''], ['b', 'a']),
      [sandbox('s', 'b')],
      new Set()
    );
    expect(draw(rows)).toEqual([
      'head-s | 0 | through  | from  | down',
      'b | 0 | through  | from 0 | down',
      'y | 1 | through 0 | from  | end',
      'a | 0 | through  | from 0 | end',
      'x | 0 | through  | from  | end'
    ]);
  });

  describe('folds', () => {
    const snapshots = chain(
      ['a', ''],
      ['p', 'a', 'packages'],
      ['q', 'p', 'long-cell'],
      ['b', 'q']
    );

    it('what came by itself, in one row', () => {
      const rows = layOut(snapshots, [sandbox('s', 'b')], new Set());
      expect(draw(rows)).toEqual([
        'head-s | 0 | through  | from  | down',
        'b | 0 | through  | from 0 | down',
        'fold-p | 0 | through  | from 0 | down',
        'a | 0 | through  | from 0 | end'
      ]);
      expect(rows[2]).toMatchObject({ kind: 'fold', open: false });
    });

    it('and unfolds it', () => {
      const rows = layOut(snapshots, [sandbox('s', 'b')], new Set(['fold-p']));
      expect(rows.map(({ key }) => key)).toEqual([
        'head-s',
        'b',
        'fold-p',
        'q',
        'p',
        'a'
      ]);
      expect(rows[3]).toMatchObject({ folded: true, from: [0], down: true });
      expect(rows[5]).toMatchObject({ folded: false });
    });

    it('not where a sandbox is, where something branches off, or a single one', () => {
      const at = layOut(snapshots, [sandbox('s', 'q')], new Set());
      expect(at.map(({ kind }) => kind)).not.toContain('fold');
      const more = [...snapshots, ...chain(['c', 'q'])];
      const branched = layOut(more, [sandbox('s', 'b')], new Set());
      expect(branched.map(({ kind }) => kind)).not.toContain('fold');
    });

    it('nothing when asked for all', () => {
      const rows = layOut(snapshots, [sandbox('s', 'b')], new Set(), false);
      expect(rows).toHaveLength(5);
    });
  });

  it('lays 500 snapshots out at once', () => {
    const many = Array.from({ length: 500 }, (_, index) => ({
      ...SNAPSHOT,
      id: `s${index}`,
      parent: index === 0 ? '' : `s${Math.floor(index * 0.9)}`,
      created: index
    }));
    const rows = layOut(many, [sandbox('s', 's499')], new Set());
    expect(rows).toHaveLength(501);
    const seen = new Set<string>();
    for (const row of rows) {
      seen.add(row.key);
      if (row.kind === 'snapshot') {
        expect(seen.has(row.snapshot.parent)).toBe(false);
      }
    }
  });
});
