import type { TranslationBundle } from '@jupyterlab/translation';
import type { ISandbox, SandboxState, SandboxStatus } from '../../tokens';

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
        ? machine(status.sandbox, trans)
        : [trans.__('no machine'), trans.__('No machine serves this kernel')];
  }
}

function machine(
  sandbox: ISandbox,
  trans: TranslationBundle
): [string, string] {
  const state = stateName(sandbox.state, trans);
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

function stateName(state: SandboxState, trans: TranslationBundle): string {
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
