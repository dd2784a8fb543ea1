import type { TranslationBundle } from '@jupyterlab/translation';
import type {
  Cause,
  ISandbox,
  ISnapshot,
  SandboxState,
  SandboxStatus,
  Verb
} from './tokens';

const UNITS = ['B', 'KB', 'MB', 'GB', 'TB'];

/**
 * A number of bytes for people, with three digits.
 */
export function bytes(count: number): string {
  let unit = 0;
  let value = count;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/**
 * A number of MHz for people.
 */
export function hertz(mega: number): string {
  return mega < 1000 ? `${mega} MHz` : `${(mega / 1000).toFixed(1)} GHz`;
}

/**
 * How long a machine stood still.
 */
export function pause(seconds: number, trans: TranslationBundle): string {
  return seconds < 1
    ? trans.__('%1 ms', Math.round(seconds * 1000))
    : trans.__('%1 s', seconds.toFixed(1));
}

/**
 * How long ago something was.
 *
 * @param seconds since the epoch.
 * @param now in milliseconds since the epoch.
 */
export function age(
  seconds: number,
  trans: TranslationBundle,
  now = Date.now()
): string {
  const minutes = Math.floor((now / 1000 - seconds) / 60);
  if (minutes < 1) {
    return trans.__('just now');
  }
  if (minutes < 60) {
    return trans.__('%1 min ago', minutes);
  }
  const hours = Math.floor(minutes / 60);
  if (hours < 24) {
    return trans.__('%1 h ago', hours);
  }
  return trans._n('%1 day ago', '%1 days ago', Math.floor(hours / 24));
}

/**
 * What a sandbox is called: by its user, or else after its notebook.
 */
export function nameOf(sandbox: ISandbox): string {
  return sandbox.name || (fileName(sandbox.notebook) ?? sandbox.id);
}

/**
 * The last part of a path, null for an empty one.
 */
export function fileName(path: string): string | null {
  return path ? path.slice(path.lastIndexOf('/') + 1) : null;
}

export function stateName(
  state: SandboxState,
  trans: TranslationBundle
): string {
  switch (state) {
    case 'starting':
      return trans.__('starting');
    case 'standby':
      return trans.__('standby');
    case 'running':
      return trans.__('running');
    case 'restoring':
      return trans.__('restoring');
    case 'hibernated':
      return trans.__('hibernated');
    case 'stopping':
      return trans.__('stopping');
    case 'stopped':
      return trans.__('stopped');
    default:
      // A newer server may know states that this front end does not.
      return state;
  }
}

/**
 * What a verb that is under way does.
 */
export function underWay(verb: Verb, trans: TranslationBundle): string {
  switch (verb) {
    case 'start':
      return trans.__('starting…');
    case 'stop':
      return trans.__('stopping…');
    case 'hibernate':
      return trans.__('hibernating…');
    case 'wake':
      return trans.__('waking…');
    case 'reset':
      return trans.__('resetting…');
    case 'delete':
      return trans.__('deleting…');
    case 'snapshot':
      return trans.__('taking a snapshot…');
    case 'delete_snapshot':
      return trans.__('deleting a snapshot…');
    case 'rollback':
      return trans.__('rolling back…');
    case 'fork':
      return trans.__('forking…');
    case 'promote':
      return trans.__('promoting…');
    case 'prune':
      return trans.__('pruning…');
    case 'diff':
      return trans.__('comparing…');
    case 'trial':
      return trans.__('trying an upgrade…');
    case 'build':
      return trans.__('building…');
    case 'delete_image':
      return trans.__('deleting the image…');
    default:
      return '…';
  }
}

/**
 * Why a snapshot was taken, '' where somebody asked for it.
 */
export function causeName(cause: Cause, trans: TranslationBundle): string {
  switch (cause) {
    case 'asked':
      return '';
    case 'rollback':
      return trans.__('before a rollback');
    case 'fork':
      return trans.__('for a fork');
    case 'hibernation':
      return trans.__('hibernation');
    case 'packages':
      return trans.__('before packages changed');
    case 'long-cell':
      return trans.__('after a long cell');
    default:
      return cause;
  }
}

/**
 * The facts of a snapshot in a line.
 */
export function factsOf(snapshot: ISnapshot, trans: TranslationBundle): string {
  const facts = [age(snapshot.created, trans), bytes(snapshot.size)];
  if (snapshot.memory) {
    facts.push(trans.__('paused %1', pause(snapshot.pause, trans)));
  } else {
    facts.push(trans.__('disk only'));
  }
  return facts.join(' · ');
}

/**
 * The words of the status-bar item.
 */
export interface IText {
  /** What is shown. */
  readonly source: string;
  /** What a screen reader says. */
  readonly label: string;
  /** What hovering shows. */
  readonly hint: string;
}

/**
 * Put a status in words, null for nothing to show.
 */
export function describe(
  status: SandboxStatus,
  trans: TranslationBundle
): IText | null {
  if (status.kind === 'none') {
    return null;
  }
  const [condition, hint] = words(status, trans);
  return {
    source: trans.__('%1 · sandbox · %2', status.title, condition),
    label: trans.__('Sandbox of %1: %2', status.title, condition),
    hint
  };
}

function words(
  status: Exclude<SandboxStatus, { kind: 'none' }>,
  trans: TranslationBundle
): [string, string] {
  switch (status.kind) {
    case 'asking':
      return ['…', trans.__('Asking the server about this sandbox')];
    case 'unreachable':
      return [trans.__('server unreachable'), status.reason];
    case 'failed':
      return [trans.__('state unknown'), status.reason];
    case 'known':
      return status.sandbox
        ? machine(status.sandbox, status.busy, trans)
        : [trans.__('no machine'), trans.__('No machine serves this kernel')];
  }
}

function machine(
  sandbox: ISandbox,
  busy: readonly Verb[],
  trans: TranslationBundle
): [string, string] {
  const state =
    busy.length > 0
      ? underWay(busy[0], trans)
      : stateName(sandbox.state, trans);
  const where = trans.__('Sandbox %1, driver %2', sandbox.id, sandbox.driver);
  return sandbox.emulated
    ? [
        trans.__('%1 (emulated)', state),
        trans.__(
          '%1. This machine is emulated: code runs about ten times slower, and it is not a security boundary.',
          where
        )
      ]
    : [state, where];
}
