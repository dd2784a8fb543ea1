import { deleteIcon, notebookIcon, stopIcon } from '@jupyterlab/ui-components';
import React from 'react';
import { CommandIDs } from '../../commands';
import { CommandButton } from '../../components/button';
import { hibernateIcon } from '../../components/icons';
import type { IRow } from '../../components/rows';
import { Rows } from '../../components/rows';
import { StateDot } from '../../components/state';
import type { ISandbox, ISandboxStore, SandboxState } from '../../tokens';
import { bytes, nameOf } from '../../words';
import { More } from '../history/body';
import type { IPanelContext } from '../section';

const HEIGHT = 44;
const ORDER: readonly SandboxState[] = [
  'starting',
  'restoring',
  'running',
  'stopping',
  'hibernated',
  'stopped',
  'standby'
];

/**
 * What runs comes first, in each group the newest.
 */
export function sorted(sandboxes: Iterable<ISandbox>): ISandbox[] {
  return [...sandboxes].sort(
    (a, b) =>
      ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || b.created - a.created
  );
}

export function SandboxesBody(props: {
  readonly store: ISandboxStore;
  readonly context: IPanelContext;
}): React.ReactElement {
  const { store, context } = props;
  const { trans } = context;
  if (store.sandboxes.size === 0) {
    return (
      <p className="jp-VSandbox-empty">
        {store.connection.kind === 'connecting'
          ? '…'
          : trans.__('There are no sandboxes.')}
      </p>
    );
  }
  const current = context.model.sandbox?.id;
  return (
    <Rows
      label={trans.__('Sandboxes')}
      height={HEIGHT}
      rows={sorted(store.sandboxes.values()).map(sandbox => ({
        key: sandbox.id,
        level: 1,
        current: sandbox.id === current,
        data: { vsandbox: 'machine', kind: 'sandbox', sandbox: sandbox.id },
        sandbox
      }))}
      render={({ sandbox }: IRow & { sandbox: ISandbox }) => (
        <Sandbox sandbox={sandbox} context={context} />
      )}
    />
  );
}

function Sandbox(props: {
  readonly sandbox: ISandbox;
  readonly context: IPanelContext;
}): React.ReactElement {
  const { sandbox, context } = props;
  const { commands, store, trans } = context;
  const args = { sandbox: sandbox.id };
  const name = nameOf(sandbox);
  const size = sandbox.usage.disk + sandbox.history.bytes;
  const notebook = sandbox.notebook_path ?? sandbox.notebook;
  return (
    <>
      <div
        className="jp-VSandbox-rowText"
        title={[name, sandbox.runtime, notebook, sandbox.id]
          .filter(Boolean)
          .join('\n')}
      >
        <div className="jp-VSandbox-rowName">
          <span>{name}</span>
          <StateDot
            state={sandbox.state}
            busy={store.busy(sandbox.id)}
            trans={trans}
          />
        </div>
        <div className="jp-VSandbox-facts">
          {[
            sandbox.runtime,
            trans.__('%1 on disk', bytes(size)),
            sandbox.usage.memory > 0
              ? trans.__('%1 of memory', bytes(sandbox.usage.memory))
              : '',
            notebook && sandbox.name ? notebook : ''
          ]
            .filter(Boolean)
            .join(' · ')}
        </div>
      </div>
      <div className="jp-VSandbox-rowButtons">
        {sandbox.notebook_path ? (
          <CommandButton
            commands={commands}
            id={CommandIDs.open}
            args={args}
            icon={notebookIcon}
            title={trans.__('Open the notebook of “%1”', name)}
          />
        ) : null}
        {sandbox.state === 'running' ? (
          <>
            <CommandButton
              commands={commands}
              id={CommandIDs.hibernate}
              args={args}
              icon={hibernateIcon}
              title={trans.__('Hibernate “%1”', name)}
            />
            <CommandButton
              commands={commands}
              id={CommandIDs.stop}
              args={args}
              icon={stopIcon}
              title={trans.__('Stop “%1”', name)}
            />
          </>
        ) : (
          <CommandButton
            commands={commands}
            id={CommandIDs.remove}
            args={args}
            icon={deleteIcon}
            title={trans.__('Delete “%1”', name)}
          />
        )}
        <More label={name} context={context} />
      </div>
    </>
  );
}
