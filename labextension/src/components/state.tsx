import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import type { SandboxState, Verb } from '../tokens';
import { stateName, underWay } from '../words';

/**
 * The state of a machine as the server told it, or what is under way on it.
 */
export function StateDot(props: {
  readonly state: SandboxState;
  readonly busy: readonly Verb[];
  readonly trans: TranslationBundle;
}): React.ReactElement {
  const { state, busy, trans } = props;
  const working = busy.length > 0;
  return (
    <span className="jp-VSandbox-state" data-state={working ? 'busy' : state}>
      <span className="jp-VSandbox-dot" aria-hidden="true" />
      {working ? underWay(busy[0], trans) : stateName(state, trans)}
    </span>
  );
}
