import { nullTranslator } from '@jupyterlab/translation';
import { compareLines } from '../panels/diff/lines';
import { DiffModel } from '../panels/diff/model';
import { HistoryModel } from '../panels/history/model';
import { sorted } from '../panels/sandboxes/body';
import { applyOutputs, TrialModel } from '../panels/trial/model';
import { SandboxModel } from '../model';
import type { SandboxStore } from '../store';
import type { ITrial } from '../tokens';
import { age, bytes, nameOf, pause } from '../words';
import type { FakeService } from './fixtures';
import {
  FakeContext,
  FakeEvents,
  fakeService,
  kernel,
  OPERATION,
  SANDBOX,
  settle,
  SNAPSHOT,
  storeOf
} from './fixtures';

const FORK = { ...SANDBOX, id: 'ffffffffffff', origin: SANDBOX.id };

const TRIAL: ITrial = {
  fork: { sandbox: FORK, kernel: 'k', notebook: 'work-fork.ipynb' },
  command: 'pip install -U pandas',
  exit_code: 0,
  failed: null,
  cells: [{ number: 2, source: 'x', old: [], new: [{ output_type: 'stream' }] }]
};

let service: FakeService;
let events: FakeEvents;
let store: SandboxStore;

beforeEach(async () => {
  service = fakeService();
  events = new FakeEvents();
  store = await storeOf(service, events);
});

afterEach(() => {
  store.dispose();
});

describe('words', () => {
  const trans = nullTranslator.load('jupyter_vsandbox');

  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1024, '1.00 KB'],
    [9_000_000, '8.58 MB'],
    [1024 ** 3, '1.00 GB']
  ])('puts %d bytes', (count, text) => {
    expect(bytes(count)).toBe(text);
  });

  it('puts times', () => {
    expect(pause(0.0469, trans)).toBe('47 ms');
    expect(pause(1.25, trans)).toBe('1.3 s');
    expect(age(1000, trans, 1_030_000)).toBe('just now');
    expect(age(1000, trans, 1_600_000)).toBe('10 min ago');
    expect(age(1000, trans, 9_000_000)).toBe('2 h ago');
    expect(age(1000, trans, 1e9)).toBe('11 days ago');
  });

  it('calls a sandbox by its name, its notebook or its id', () => {
    expect(nameOf({ ...SANDBOX, name: 'mine' })).toBe('mine');
    expect(nameOf(SANDBOX)).toBe('work.ipynb');
    expect(nameOf({ ...SANDBOX, notebook: '' })).toBe(SANDBOX.id);
  });
});

describe('sorted', () => {
  it('puts what runs first, and the newest', () => {
    const all = (
      [
        ['a', 'stopped', 1],
        ['b', 'running', 1],
        ['c', 'running', 2],
        ['d', 'hibernated', 9]
      ] as const
    ).map(([id, state, created]) => ({ ...SANDBOX, id, state, created }));
    expect(sorted(all).map(({ id }) => id)).toEqual(['c', 'b', 'd', 'a']);
  });
});

describe('HistoryModel', () => {
  it('fetches the histories of all that share it, and keeps the last one when the server goes', async () => {
    service.list.mockResolvedValue([SANDBOX, FORK]);
    events.connect(true);
    await settle();
    const notebook = new SandboxModel(store);
    const model = new HistoryModel(notebook, store, () => ({
      askName: true,
      snapshotName: '',
      foldAutomatic: true,
      upgradeCommand: ''
    }));
    expect(model.rows).toBeNull();
    notebook.context = new FakeContext(kernel('kernel-1')).asContext;
    await settle();
    await settle();
    expect(service.history.mock.calls).toEqual([[SANDBOX.id], [FORK.id]]);
    expect(model.rows?.map(({ kind }) => kind)).toContain('snapshot');

    events.connect(false);
    expect(model.sandbox?.id).toBe(SANDBOX.id);
    expect(model.rows).not.toBeNull();
    model.dispose();
    notebook.dispose();
  });
});

describe('compareLines', () => {
  it('tells which lines left and which came', () => {
    expect(
      compareLines('a\nb\nc', 'a\nx\nc\nd').map(
        ({ kind, text }) => `${kind} ${text}`
      )
    ).toEqual(['same a', 'old b', 'new x', 'same c', 'new d']);
    expect(compareLines('', 'a')).toEqual([{ kind: 'new', text: 'a' }]);
    expect(compareLines('', '')).toEqual([]);
  });
});

describe('DiffModel', () => {
  it('offers the present and all snapshots, and compares what is chosen', async () => {
    const now = { sandbox: SANDBOX.id };
    const model = new DiffModel(service, store, SANDBOX.id, now, now);
    await settle();
    expect(model.choices.map(({ key }) => key)).toEqual([
      SANDBOX.id,
      `${SANDBOX.id}@${SNAPSHOT.id}`
    ]);
    model.choose('before', model.choices[1].point);
    const done = model.compare();
    await settle();
    expect(service.diff).toHaveBeenCalledWith(
      { sandbox: SANDBOX.id, snapshot: SNAPSHOT.id },
      now
    );
    expect(model.comparison.kind).toBe('running');
    const error = { message: 'It is gone.', kind: 'NotFound', field: null };
    events.operation({ state: 'failed', error });
    await done;
    expect(model.comparison).toEqual({ kind: 'failed', reason: 'It is gone.' });
    model.dispose();
  });
});

describe('TrialModel', () => {
  async function tried(): Promise<[TrialModel, jest.Mock]> {
    const remove = jest.fn().mockResolvedValue(undefined);
    const files = { remove, document: () => null };
    const command = TRIAL.command;
    const model = new TrialModel(service, store, files, SANDBOX, command);
    service.operation.mockResolvedValue({ ...OPERATION, result: TRIAL });
    const done = model.run();
    await settle();
    events.operation({ verb: 'trial' }, ['Collecting pandas']);
    expect(model.state).toBe('running');
    expect(model.log).toEqual(['Collecting pandas']);
    events.operation({ verb: 'trial', state: 'done' });
    await done;
    return [model, remove];
  }

  it.each([
    ['keep', 'promote', 'kept'],
    ['discard', 'delete', 'discarded']
  ] as const)('can %s, once it has run', async (what, verb, state) => {
    const [model, remove] = await tried();
    expect(model.trial).toEqual(TRIAL);
    const act = { ...OPERATION, id: '111111111111', sandbox: FORK.id };
    service.act.mockResolvedValue(act);
    const done = model[what]();
    await settle();
    expect(service.act).toHaveBeenCalledWith(FORK.id, verb);
    expect(model.state).toMatch(/ing$/);
    events.operation({ ...act, state: 'done' });
    await done;
    expect(model.state).toBe(state);
    expect(remove).toHaveBeenCalledWith('work-fork.ipynb');
    model.dispose();
  });

  it('can be tried again where that fails', async () => {
    const [model] = await tried();
    service.act.mockRejectedValue(new Error('It runs a cell.'));
    await model.keep();
    expect(model.state).toBe('done');
    expect(model.reason).toBe('It runs a cell.');
    model.dispose();
  });

  it('puts outputs only into cells that are what was run', () => {
    const cell = (source: string) => ({
      type: 'code',
      sharedModel: { getSource: () => source },
      outputs: { fromJSON: jest.fn() }
    });
    const cells = [cell('w'), cell('x')];
    const model = { cells: { get: (index: number) => cells[index] } };
    applyOutputs(model as never, TRIAL);
    expect(cells[1].outputs.fromJSON).toHaveBeenCalledWith(TRIAL.cells[0].new);
    const changed = [cell('w'), cell('other')];
    applyOutputs(
      { cells: { get: (index: number) => changed[index] } } as never,
      TRIAL
    );
    expect(changed[1].outputs.fromJSON).not.toHaveBeenCalled();
  });
});
